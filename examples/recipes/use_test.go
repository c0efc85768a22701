package recipes

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"testing/fstest"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database/postgres"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/sqlrotate/sqlrotate"
	"github.com/uptrace/bun"
	"gorm.io/gorm"

	"github.com/sqlrotate/sqlrotate/examples/recipes/ent"
	"github.com/sqlrotate/sqlrotate/examples/recipes/ent/entry"
	"github.com/sqlrotate/sqlrotate/examples/recipes/queries"
)

// Entry is a row for those that want a type.
type Entry struct {
	bun.BaseModel `gorm:"-"     bun:"table:entry"`
	ID            int64 `bun:",pk,autoincrement"`
	Book          string
	Op            string
	Amount        int64
}

// TableName is for gorm.
func (Entry) TableName() string { return "entry" }

// entries are what an operation writes.
func entries(book, op string) []Entry {
	return []Entry{{Book: book, Op: op, Amount: 1}, {Book: book, Op: op, Amount: -1}}
}

// zero is what the amounts of an operation come to.
func zero(sum int64, err error) error {
	if err == nil && sum != 0 {
		err = fmt.Errorf("the sum is %d", sum)
	}
	return err
}

// recipes starts them all.
func (s *site) recipes() []*recipe {
	return []*recipe{
		s.start("sqlx", s.pq, sqlrotate.OpenDB, useSQLX),
		s.start("gorm", s.pq, sqlrotate.OpenDB, func(r *recipe) operation { return s.useGorm(must(Gorm(r.db, "postgres"))(s)) }),
		s.start("gorm on pgx", s.pgx, sqlrotate.OpenDB, func(r *recipe) operation { return s.useGorm(must(Gorm(r.db, ""))(s)) }),
		s.start("ent", s.pq, sqlrotate.OpenDB, useEnt),
		s.start("ent on pgx", s.pgx, sqlrotate.OpenDB, useEnt),
		s.start("bun", s.pq, sqlrotate.OpenDB, useBun),
		s.start("bun on pgx", s.pgx, sqlrotate.OpenDB, useBun),
		s.start("sqlc", s.pq, sqlrotate.OpenDB, useSQLC),
		s.start("sqlc on pgx", s.pgx, sqlrotate.OpenDB, useSQLC),
		s.start("otelsql", s.pq, OpenTraced, useSQLC),
		s.start("otelsql of nhat", s.pq, func(c *sqlrotate.Connector) *sql.DB { return must(OpenTracedByNhat(c))(s) }, useSQLC),
		s.start("a traced driver", func(name string) sqlrotate.Opener { return TracedDriver(s.url(name)) }, sqlrotate.OpenDB, useSQLC),
		s.start("river", s.pq, sqlrotate.OpenDB, s.useRiver),
		s.start("river_on_pgx", s.pgx, sqlrotate.OpenDB, s.useRiver),
	}
}

func useSQLX(r *recipe) operation {
	db := SQLX(r.db)
	return func(ctx context.Context, book, op string) error {
		tx, err := db.BeginTxx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if _, err := tx.NamedExecContext(ctx, "insert into entry (book, op, amount) values (:book, :op, :amount)", entries(book, op)); err != nil {
			return err
		}
		var sum int64
		if err := zero(sum, tx.GetContext(ctx, &sum, "select sum(amount) from entry where op = $1", op)); err != nil {
			return err
		}
		return tx.Commit()
	}
}

func (s *site) useGorm(db *gorm.DB) operation {
	if types := must(db.Migrator().ColumnTypes(&Entry{}))(s); len(types) != 4 {
		s.Errorf("gorm sees the columns %v", types)
	}
	return func(ctx context.Context, book, op string) error {
		return db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
			rows := entries(book, op)
			if err := tx.Create(&rows).Error; err != nil {
				return err
			}
			var sum int64
			err := tx.Model(&Entry{}).Where("op = ?", op).Select("sum(amount)").Scan(&sum).Error
			return zero(sum, err)
		})
	}
}

func useEnt(r *recipe) operation {
	client := Ent(r.db)
	return func(ctx context.Context, book, op string) error {
		tx, err := client.Tx(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		var rows []*ent.EntryCreate
		for _, e := range entries(book, op) {
			rows = append(rows, tx.Entry.Create().SetBook(e.Book).SetOp(e.Op).SetAmount(e.Amount))
		}
		if _, err := tx.Entry.CreateBulk(rows...).Save(ctx); err != nil {
			return err
		}
		sum, err := tx.Entry.Query().Where(entry.Op(op)).Aggregate(ent.Sum(entry.FieldAmount)).Int(ctx)
		if err := zero(int64(sum), err); err != nil {
			return err
		}
		return tx.Commit()
	}
}

func useBun(r *recipe) operation {
	db := Bun(r.db)
	return func(ctx context.Context, book, op string) error {
		return db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			rows := entries(book, op)
			if _, err := tx.NewInsert().Model(&rows).Exec(ctx); err != nil {
				return err
			}
			var sum int64
			err := tx.NewSelect().Model((*Entry)(nil)).ColumnExpr("sum(amount)").Where("op = ?", op).Scan(ctx, &sum)
			return zero(sum, err)
		})
	}
}

// useSQLC is for what is traced as well.
func useSQLC(r *recipe) operation {
	q := SQLC(r.db)
	return func(ctx context.Context, book, op string) error {
		tx, err := r.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if err := enter(ctx, q.WithTx(tx), book, op); err != nil {
			return err
		}
		return tx.Commit()
	}
}

func enter(ctx context.Context, q *queries.Queries, book, op string) error {
	for _, e := range entries(book, op) {
		if err := q.AddEntry(ctx, queries.AddEntryParams{Book: e.Book, Op: e.Op, Amount: e.Amount}); err != nil {
			return err
		}
	}
	return zero(q.SumOfOp(ctx, op))
}

// job has a worker do an operation.
type job struct {
	Book string `json:"book"`
	Op   string `json:"op"`
}

func (job) Kind() string { return "entry" }

type worker struct {
	river.WorkerDefaults[job]
	db *sql.DB
}

func (w *worker) Work(ctx context.Context, j *river.Job[job]) error {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := enter(ctx, queries.New(tx), j.Args.Book, j.Args.Op); err != nil {
		return err
	}
	if _, err := river.JobCompleteTx[*riverdatabasesql.Driver](ctx, tx, j); err != nil {
		return err
	}
	return tx.Commit()
}

// migrateRiver makes the tables that river needs.
func (s *site) migrateRiver() {
	m := must(rivermigrate.New(riverdatabasesql.New(s.server.Admin()), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)}))(s)
	if _, err := m.Migrate(s.Context(), rivermigrate.DirectionUp, nil); err != nil {
		s.Fatal(err)
	}
}

// useRiver puts jobs into a queue, and works them.
func (s *site) useRiver(r *recipe) operation {
	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{db: r.db})
	client := must(River(r.db, &river.Config{
		Queues: map[string]river.QueueConfig{r.name: {MaxWorkers: 4}}, Workers: workers,
		FetchPollInterval: 50 * time.Millisecond, FetchCooldown: 20 * time.Millisecond,
		Logger: slog.New(complaints{s, slog.NewTextHandler(s.Output(), &slog.HandlerOptions{Level: slog.LevelError})}),
	}))(s)
	if err := client.Start(s.Context()); err != nil {
		s.Fatal(err)
	}
	r.finish = func() {
		left := func() (n, again int) {
			err := s.server.Admin().QueryRowContext(s.Context(),
				"select count(*) filter (where state <> 'completed'), count(*) filter (where attempt > 1) from river_job where queue = $1", r.name).Scan(&n, &again)
			if err != nil {
				s.Error(err)
			}
			return n, again
		}
		s.meter.Eventually(20*time.Second, "all jobs are done", func() bool { n, _ := left(); return n == 0 })
		if _, again := left(); again > 0 {
			s.blame("%s: %d jobs were tried again", r.name, again)
		}
		if err := client.Stop(s.Context()); err != nil {
			s.Error(err)
		}
	}
	return func(ctx context.Context, book, op string) error {
		tx, err := r.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if _, err := client.InsertTx(ctx, tx, job{book, op}, &river.InsertOpts{Queue: r.name}); err != nil {
			return err
		}
		return tx.Commit()
	}
}

// complaints fails the test with what is logged as an error.
type complaints struct {
	s *site
	slog.Handler
}

func (c complaints) Handle(ctx context.Context, r slog.Record) error {
	c.s.blame("it is logged: %s", r.Message)
	return c.Handler.Handle(ctx, r)
}

func (c complaints) WithAttrs(attrs []slog.Attr) slog.Handler {
	return complaints{c.s, c.Handler.WithAttrs(attrs)}
}

func (c complaints) WithGroup(name string) slog.Handler {
	return complaints{c.s, c.Handler.WithGroup(name)}
}

// migrate runs migrations that take longer than a rotation: goose twice at once, so that one
// waits for the other, and golang-migrate; and both of them on held connections, in tables of
// their own.
func (s *site) migrate() *sync.WaitGroup {
	cfg := func(name string, opener func(string) sqlrotate.Opener) sqlrotate.Config {
		cfg := s.config(opener(name))
		cfg.Source = s.owner
		return cfg
	}
	steps := func(pattern, text string) fs.FS {
		files := fstest.MapFS{}
		for n := 1; n <= 3; n++ {
			files[fmt.Sprintf(pattern, n)] = &fstest.MapFile{Data: fmt.Appendf(nil, text, n)}
		}
		return files
	}
	forGoose := func(table string) fs.FS {
		return steps("%d_step.sql", "-- +goose Up\nselect pg_sleep(1.2);\ncreate table "+table+"%d (id int);\n")
	}
	forMigrate := func(table string) fs.FS {
		return steps("%d_step.up.sql", "select pg_sleep(1.2);\ncreate table "+table+"%d (id int);\n")
	}
	var all sync.WaitGroup
	run := func(name string, f func() error) {
		all.Go(func() {
			began := time.Now()
			if err := f(); err != nil {
				s.blame("%s: %v", name, err)
			}
			if took := time.Since(began); took < every {
				s.Errorf("%s took %v, in which nothing may have been rotated", name, took)
			}
		})
	}
	run("goose", func() error { return Goose(s.Context(), cfg("goose", s.pq), longest, forGoose("by_goose")) })
	run("another goose", func() error { return Goose(s.Context(), cfg("another goose", s.pgx), longest, forGoose("by_goose")) })
	run("golang-migrate", func() error { return Migrate(cfg("golang-migrate", s.pq), longest, forMigrate("by_migrate")) })
	run("goose, held", func() error {
		return s.hold(cfg("goose, held", s.pgx), func(db *sql.DB) error { return gooseOn(s.Context(), db, forGoose("by_held_goose")) })
	})
	run("golang-migrate, held", func() error {
		return s.hold(cfg("golang-migrate, held", s.pq), func(db *sql.DB) error { return migrateOn(db, forMigrate("by_held_migrate")) })
	})
	return &all
}

// hold has a held connection used.
func (s *site) hold(cfg sqlrotate.Config, use func(*sql.DB) error) error {
	c, err := sqlrotate.New(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	held, err := c.Hold(s.Context())
	if err != nil {
		return err
	}
	defer held.Close()
	return use(held.OpenDB())
}

// gooseOn runs goose as docs/outside.md has it, with a lock.
func gooseOn(ctx context.Context, db *sql.DB, migrations fs.FS) error {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(2))
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations, goose.WithSessionLocker(locker), goose.WithTableName("held_goose"))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// migrateOn runs golang-migrate as docs/outside.md has it.
func migrateOn(db *sql.DB, migrations fs.FS) error {
	source, err := iofs.New(migrations, ".")
	if err != nil {
		return err
	}
	driver, err := postgres.WithInstance(db, &postgres.Config{MigrationsTable: "held_migrate"})
	if err != nil {
		return err
	}
	m, err := migrate.NewWithInstance("iofs", source, "postgres", driver)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Up()
}
