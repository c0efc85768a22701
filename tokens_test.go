//go:build unix

package sqlrotate

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/ledger"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/internal/tokentest"
)

// tokenService lets in whoever has a token of its program's that is young enough.
type tokenService struct {
	lifetime       time.Duration
	from           atomic.Int64 // older tokens are revoked; Unix nanoseconds
	taken, refused atomic.Int64
	tokens         atomic.Int64 // different ones that were taken
	last           atomic.Int64
}

const tokenScript = `echo run >>"$1"; echo "token-of-$(date +%s%N)"`

func (s *tokenService) right(password string) bool {
	text, found := strings.CutPrefix(password, "token-of-")
	issued, err := strconv.ParseInt(text, 10, 64)
	if !found || err != nil || issued < s.from.Load() || time.Since(time.Unix(0, issued)) > s.lifetime {
		s.refused.Add(1)
		return false
	}
	if s.last.Swap(issued) != issued {
		s.tokens.Add(1)
	}
	s.taken.Add(1)
	return true
}

// Tokens that a program prints come and go under load, and are once revoked before their
// time: no query fails, and how often the program runs has nothing to do with how many
// logins there are.
func TestTokensOfACommandFailNoQuery(t *testing.T) {
	const role = "token_user"
	tokens := &tokenService{lifetime: 2 * time.Second}
	hba := tokentest.Serve(t, role, tokens.right)
	server := pgtest.New(t, pgtest.Options{HBA: []string{hba, "host all all all scram-sha-256"}})
	if err := ledger.Create(t.Context(), server.Admin()); err != nil {
		t.Fatal(err)
	}
	if err := server.CreateRole(t.Context(), role, "of no use"); err != nil {
		t.Fatal(err)
	}
	log := &logbook{}
	runs := filepath.Join(t.TempDir(), "runs")
	began := time.Now()
	source, err := NewCommandSource(sh(tokenScript, runs), CommandOptions{Username: role, Lifetime: tokens.lifetime, Cache: CacheOptions{Logger: log.logger()}})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	opener, err := LibPQ(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Source: source, Opener: opener, Window: LoginTokens(), ConnMaxLifetime: 250 * time.Millisecond, Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	db := OpenDB(c)
	defer db.Close()
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)

	load := ledger.Start(db, ledger.Options{Workers: 8, Think: 5 * time.Millisecond})
	eventually := func(what string, f func() bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !f(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("there is never %s", what)
			}
		}
	}
	eventually("a third token", func() bool { return tokens.tokens.Load() >= 3 })
	revoke := func() (before int64) {
		tokens.from.Store(time.Now().UnixNano())
		return tokens.tokens.Load()
	}
	refused, before := tokens.refused.Load(), revoke()
	eventually("a refused token", func() bool {
		if tokens.tokens.Load() > before { // the next one came by itself just then
			before = revoke()
		}
		return tokens.refused.Load() > refused
	})
	eventually("a token after the others were revoked", func() bool { return tokens.tokens.Load() > before })
	load.Stop()
	lasted := time.Since(began)

	for _, f := range load.Failures() {
		t.Errorf("failed: %v", f.Err)
	}
	if err := load.Audit(t.Context(), server.Admin()); err != nil {
		t.Error(err)
	}
	content, err := os.ReadFile(runs)
	if err != nil {
		t.Fatal(err)
	}
	// One in half a lifetime at the most, one at the start, and a few when all were revoked.
	ran, most := strings.Count(string(content), "\n"), 4+int(lasted/(tokens.lifetime/2))
	logins := tokens.taken.Load()
	if ran > most || logins <= int64(ran) {
		t.Errorf("in %v there were %d runs (%d at the most) for %d logins", lasted, ran, most, logins)
	}
	stats := c.Stats()
	if stats.Closed[CloseSuperseded] > 0 || stats.Rotations > 0 || stats.Outlived > 0 {
		t.Errorf("a token is no rotation: %+v", stats)
	}
	if text := log.String(); strings.Contains(text, "token-of-") {
		t.Errorf("the log has a token in it:\n%s", text)
	}
	t.Logf("%d operations, %d logins, %d refused, %d tokens, %d runs in %v", load.Done(), logins, tokens.refused.Load(), tokens.tokens.Load(), ran, lasted.Round(time.Millisecond))
}
