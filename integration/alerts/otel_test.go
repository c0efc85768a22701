package alerts

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/pgtest"
	"github.com/sqlrotate/sqlrotate/otel"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"
)

// What OpenTelemetry's exporter for Prometheus makes of the instruments is what the
// collector says, to the letter: rules and dashboard fit both.
func TestInstrumentsBecomeTheCollectors(t *testing.T) {
	registry := client.NewPedanticRegistry()
	export, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		t.Fatal(err)
	}
	instruments, err := otel.NewInstruments(sdk.NewMeterProvider(sdk.WithReader(export)))
	if err != nil {
		t.Fatal(err)
	}
	a := &app{T: t, began: time.Now(), name: "instruments", server: pgtest.New(t, pgtest.Options{}), path: filepath.Join(t.TempDir(), "creds.json")}
	a.replace(ending(a.newRole(), time.Hour))
	a.start(func(cfg *sqlrotate.Config, _ *sqlrotate.FileOptions) {
		cfg.Trace = sqlrotate.JoinTraces(cfg.Trace, instruments.Trace(cfg.Name))
	})
	if err := errors.Join(instruments.AddConnector("orders", a.connector), instruments.AddPool("orders", a.db), instruments.AddFile("orders", a.src)); err != nil {
		t.Fatal(err)
	}
	exported := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	// It goes on all the while, so one of the two is often some milliseconds ahead.
	same := func(state string, is func() bool) {
		t.Helper()
		var want, got string
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(7 * time.Millisecond) {
			want, got = a.answer(a.scrapes), ours(a.answer(exported))
			if is() && want == got {
				return
			}
		}
		t.Fatalf("%s: the collector says\n%s\nand the instruments\n%s", state, want, got)
	}
	same("at first", a.works)
	a.replace(ending(a.newRole(), time.Hour))
	same("after a rotation", func() bool { return a.works() && a.connector.Stats().Drains == 1 })
	a.replace(fmt.Sprintf(`{"username":%q,"password":"wrong"}`, a.role))
	same("while a credential is refused", func() bool { return a.connector.Stats().Refusals > 0 })
	a.replace("torn")
	same("while the file is no credential", func() bool { return a.src.Status().FailingSince != time.Time{} })
}

// answer is what a scrape gets.
func (a *app) answer(h http.Handler) string {
	a.Helper()
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequestWithContext(a.Context(), http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		a.Fatal(answer.Body)
	}
	return answer.Body.String()
}

// ours leaves out what only OpenTelemetry's conventions name.
func ours(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "db_client_connection_") {
			b.WriteString(line)
		}
	}
	return b.String()
}
