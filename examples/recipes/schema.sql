create table entry (
    id     bigserial primary key,
    book   text   not null,
    op     text   not null,
    amount bigint not null
);
