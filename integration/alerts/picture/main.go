// Command picture draws what the dashboard of examples/grafana shows, without Grafana: it
// runs two small applications on a PostgreSQL of its own, rotates their logins, has a real
// Prometheus scrape them, asks it what the dashboard's panels ask, and draws the answers.
// docs/dashboard.svg is made by it, from this directory's parent:
//
//	GOWORK=off go run ./picture -o ../../docs/dashboard.svg
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/pgtest"
)

func main() {
	log.SetFlags(0)
	out := flag.String("o", "dashboard.svg", "the picture")
	from := flag.String("dashboard", "../../examples/grafana/sqlrotate.json", "the dashboard")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *from, *out); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, from, out string) (err error) {
	text, err := os.ReadFile(from) //nolint:gosec // whoever runs it says which
	if err != nil {
		return err
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "picture-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := pgtest.Start(ctx, pgtest.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }() //nolint:contextcheck // it is closed when the context is done, too
	s, err := newScene(ctx, server, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	address, wait, err := scrape(ctx, dir, s.targets())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wait()) }()
	begin := time.Now()
	if err := s.play(ctx); err != nil {
		return err
	}
	asked := &prometheus{address: address, begin: begin, end: time.Now()}
	p := picture{end: asked.end.Sub(begin)}
	if err := p.fill(ctx, d, asked); err != nil {
		return err
	}
	svg := p.svg()
	return errors.Join(p.legible(), os.WriteFile(out, []byte(svg), 0o644)) //nolint:gosec // it is for everybody
}

// scrape starts a Prometheus that scrapes the targets each second, and returns its address
// and what ends it.
func scrape(ctx context.Context, dir string, targets []string) (address string, stop func() error, err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	address = l.Addr().String()
	if err := l.Close(); err != nil {
		return "", nil, err
	}
	config := filepath.Join(dir, "prometheus.yaml")
	text := "global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: picture\n    static_configs: [{targets: [" + strings.Join(targets, ",") + "]}]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, "prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "tsdb"), "--web.listen-address="+address, "--log.level=error") //nolint:gosec // its own files
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	return address, func() error { return errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()) }, nil
}

// dashboard is what is drawn of one.
type dashboard struct {
	Panels      []panel
	Annotations struct{ List []struct{ Expr string } }
}

type panel struct {
	Type, Title string
	Targets     []struct{ Expr, LegendFormat string }
	FieldConfig struct {
		Defaults struct {
			Unit, NoValue string
			Mappings      []struct {
				Options map[string]struct{ Text, Color string }
			}
			Thresholds struct {
				Steps []struct {
					Value *float64
					Color string
				}
			}
			Custom struct {
				Stacking        struct{ Mode string }
				ThresholdsStyle struct{ Mode string }
			}
		}
		Overrides []struct {
			Matcher    struct{ Options string }
			Properties []struct {
				Value json.RawMessage
			}
		}
	}
}

// prometheus answers queries about a stretch of time.
type prometheus struct {
	address    string
	begin, end time.Time
}

// step is how far apart the values are.
const step = time.Second

// line is a series: its values by step, NaN where there is none.
type line struct {
	name   string
	values []float64
}

var label = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// ask asks for all connectors and sources.
func (p *prometheus) ask(ctx context.Context, expr, legend string) ([]line, error) {
	expr = strings.NewReplacer("$connector", ".*", "$source", ".*", "$__rate_interval", "15s").Replace(expr)
	form := url.Values{
		"query": {expr}, "step": {strconv.FormatFloat(step.Seconds(), 'f', -1, 64)},
		"start": {strconv.FormatInt(p.begin.Unix(), 10)}, "end": {strconv.FormatInt(p.end.Unix(), 10)},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+"/api/v1/query_range?"+form.Encode(), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Values [][2]json.RawMessage
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", expr, answer.Error)
	}
	var lines []line
	for _, one := range answer.Data.Result {
		l := line{
			name:   label.ReplaceAllStringFunc(legend, func(s string) string { return one.Metric[label.FindStringSubmatch(s)[1]] }),
			values: none(int(p.end.Sub(p.begin)/step) + 1),
		}
		for _, pair := range one.Values {
			at, err := strconv.ParseFloat(string(pair[0]), 64)
			if err != nil {
				return nil, err
			}
			value, err := strconv.ParseFloat(strings.Trim(string(pair[1]), `"`), 64)
			if err != nil {
				return nil, err
			}
			if i := int(at) - int(p.begin.Unix()); i < len(l.values) {
				l.values[i] = value
			}
		}
		lines = append(lines, l)
	}
	return lines, nil
}
