// How a Pool learns that a connection comes back.

package pgxopener

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// releaseTracer returns the tracer of the pool itself, which sees connections come back, in
// pgxpool's own time: its AfterRelease would cost a goroutine. Connections have the
// application's tracer.
func releaseTracer(tracer pgx.QueryTracer, destroys bool) pgx.QueryTracer {
	t := releases{destroys: destroys}
	t.application, _ = tracer.(pgxpool.ReleaseTracer)
	if a, ok := tracer.(pgxpool.AcquireTracer); ok {
		return acquires{t, a}
	}
	return t
}

// releases is a [pgxpool.ReleaseTracer].
type releases struct {
	application pgxpool.ReleaseTracer // nil: it has none
	destroys    bool                  // AfterRelease sees to connections that may go
}

// acquires is a [pgxpool.AcquireTracer] as well.
type acquires struct {
	releases
	application pgxpool.AcquireTracer
}

// TraceAcquireStart tells the application.
func (t acquires) TraceAcquireStart(ctx context.Context, pool *pgxpool.Pool, data pgxpool.TraceAcquireStartData) context.Context {
	if ctx.Value(sweeping{}) != nil {
		return ctx
	}
	return t.application.TraceAcquireStart(ctx, pool, data)
}

// TraceAcquireEnd does so as well.
func (t acquires) TraceAcquireEnd(ctx context.Context, pool *pgxpool.Pool, data pgxpool.TraceAcquireEndData) {
	if ctx.Value(sweeping{}) == nil {
		t.application.TraceAcquireEnd(ctx, pool, data)
	}
}

// closeTimeout bounds the close of a connection.
const closeTimeout = 5 * time.Second

// TraceRelease closes a connection that may go. Then pgxpool destroys it, and sees to
// MinConns.
func (t releases) TraceRelease(pool *pgxpool.Pool, data pgxpool.TraceReleaseData) {
	r := resumedOf(data.Conn)
	if !r.swept.Load() {
		r.idleSince = time.Now()
		if t.application != nil {
			t.application.TraceRelease(pool, data)
		}
	}
	if r.session.Return() || t.destroys {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = data.Conn.Close(ctx)
}

// TraceQueryStart does nothing: connections have a tracer of their own.
func (releases) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd does nothing.
func (releases) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
