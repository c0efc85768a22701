-- name: AddEntry :exec
insert into entry (book, op, amount) values ($1, $2, $3);

-- name: SumOfOp :one
select sum(amount)::bigint from entry where op = $1;
