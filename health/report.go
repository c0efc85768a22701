// The report: what the page says of connectors and sources, in JSON and in words.

package health

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Report is what a [Page] says, at one moment. Times are in UTC; those that are zero
// are left out of JSON.
type Report struct {
	At         time.Time   `json:"at"`
	Connectors []Connector `json:"connectors"`
	Sources    []Source    `json:"sources"`
}

// Connector is how a connector is doing.
type Connector struct {
	Name     string    `json:"name"`
	Ready    bool      `json:"ready"`
	NotReady string    `json:"not_ready,omitempty"` // why it isn't
	Problems []Problem `json:"problems"`

	Versions       []Version  `json:"versions"` // the newest first
	Rotations      uint64     `json:"rotations"`
	LastRotations  []Rotation `json:"last_rotations"` // the oldest first; needs [Page.Trace]
	Drain          *Drain     `json:"drain,omitempty"`
	Window         Window     `json:"window"`
	Observed       Observed   `json:"observed"`
	Logins         uint64     `json:"logins"`
	Refused        uint64     `json:"refused"`
	Failed         uint64     `json:"failed"`
	LastLoginAt    time.Time  `json:"last_login_at,omitzero"`
	Waiting        int        `json:"waiting"`
	Outlived       uint64     `json:"outlived"`
	SuccessorDueAt time.Time  `json:"successor_due_at,omitzero"`
	SourceReadAt   time.Time  `json:"source_read_at,omitzero"`
}

// Problem is a sqlrotate.Problem.
type Problem struct {
	Kind       string    `json:"kind"`
	Since      time.Time `json:"since,omitzero"`
	Text       string    `json:"text"`
	CanConnect bool      `json:"can_connect"`
}

// Version is a version of the credential.
type Version struct {
	Number       uint64    `json:"number"`
	Username     string    `json:"username"`
	Current      bool      `json:"current"`
	Proven       bool      `json:"proven"`
	Open         int       `json:"open"` // its sessions
	OldestAt     time.Time `json:"oldest_at,omitzero"`
	SeenAt       time.Time `json:"seen_at,omitzero"`
	EndsAt       time.Time `json:"ends_at,omitzero"`
	RefusedSince time.Time `json:"refused_since,omitzero"`
}

// Rotation is a change of the credential. What it led to is zero while it hasn't.
type Rotation struct {
	At           time.Time `json:"at"`
	Version      uint64    `json:"version"`
	Username     string    `json:"username"`
	ProvenAt     time.Time `json:"proven_at,omitzero"`
	Refusals     int       `json:"refusals"`
	Drained      int       `json:"drained"` // connections that it replaced
	DrainSeconds float64   `json:"drain_seconds"`
	CutOff       int       `json:"cut_off"` // connections that were open when their credential ended
}

// Drain is the replacement of old connections after a rotation.
type Drain struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	Size  int       `json:"size"`
	Left  int       `json:"left"`
}

// Window is the window in force, in seconds. Zero means that there is none of it.
type Window struct {
	OverlapSeconds      float64 `json:"overlap_seconds"`
	LagSeconds          float64 `json:"lag_seconds"`
	MaxInUseSeconds     float64 `json:"max_in_use_seconds"`
	MaxLifetimeSeconds  float64 `json:"max_lifetime_seconds"`
	RetryTimeoutSeconds float64 `json:"retry_timeout_seconds"`
	DrainSeconds        float64 `json:"drain_seconds"`
}

// Observed is the worst that was seen of what the window rests on, in seconds. Zero means
// that nothing was seen.
type Observed struct {
	Since                time.Time `json:"since,omitzero"`
	LongestUseSeconds    float64   `json:"longest_use_seconds"`
	LongestUseAt         time.Time `json:"longest_use_at,omitzero"`
	SourceLagSeconds     float64   `json:"source_lag_seconds"`
	SourceLagAt          time.Time `json:"source_lag_at,omitzero"`
	LongestLoginSeconds  float64   `json:"longest_login_seconds"`
	LongestLoginAt       time.Time `json:"longest_login_at,omitzero"`
	TimerLatenessSeconds float64   `json:"timer_lateness_seconds"`
	TimerLatenessAt      time.Time `json:"timer_lateness_at,omitzero"`
}

// Source is how a source is doing: a file or a cache.
type Source struct {
	Name          string    `json:"name"`
	Kind          string    `json:"kind"`
	Path          string    `json:"path,omitempty"`
	Format        string    `json:"format,omitempty"`
	Username      string    `json:"username"`
	Reads         uint64    `json:"reads"`
	FailedReads   uint64    `json:"failed_reads"` // of a file
	Loads         uint64    `json:"loads"`        // of a file
	LoadedAt      time.Time `json:"loaded_at,omitzero"`
	CheckedAt     time.Time `json:"checked_at,omitzero"`
	ModifiedAt    time.Time `json:"modified_at,omitzero"`
	NextAt        time.Time `json:"next_at,omitzero"`
	EndsAt        time.Time `json:"ends_at,omitzero"`
	Divergence    string    `json:"divergence,omitempty"`
	DivergedSince time.Time `json:"diverged_since,omitzero"`
	FailingSince  time.Time `json:"failing_since,omitzero"`
	Failures      int       `json:"failures"`
	Err           string    `json:"error,omitempty"`
}

// String is the report for people.
func (r Report) String() string {
	t := &text{now: r.At}
	t.line("sqlrotate, %s", r.At.Format(time.RFC3339))
	for _, c := range r.Connectors {
		t.connector(c)
	}
	for _, s := range r.Sources {
		t.source(s)
	}
	return t.String()
}

// A text is written line by line.
type text struct {
	strings.Builder
	now time.Time
}

// line adds a line. What others named can't add more of them.
func (t *text) line(format string, args ...any) {
	_, _ = t.WriteString(strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, fmt.Sprintf(format, args...)) + "\n")
}

// when says when something was or will be, seen from now.
func (t *text) when(at time.Time) string {
	switch d := t.now.Sub(at); {
	case at.IsZero():
		return "never"
	case d < 0:
		return "in " + round(-d)
	default:
		return round(d) + " ago"
	}
}

// since is a further remark, if there is something to be said.
func (t *text) since(what string, at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return ", " + what + " " + t.when(at)
}

func round(d time.Duration) string { return d.Round(time.Second).String() }

func seconds(s float64) string { return time.Duration(s * float64(time.Second)).String() }

func (t *text) connector(c Connector) {
	ready := "ready"
	if !c.Ready {
		ready = "NOT READY: " + c.NotReady
	}
	t.line("")
	t.line("connector %s: %s", c.Name, ready)
	for _, p := range c.Problems {
		t.line("  problem %s%s: %s", p.Kind, t.since("began", p.Since), p.Text)
	}
	for _, v := range c.Versions {
		role, proof := "older", "not proven"
		if v.Current {
			role = "current"
		}
		if v.Proven {
			proof = "proven"
		}
		t.line("  version %d, %s, user %q: %d sessions, %s%s%s%s%s", v.Number, role, v.Username, v.Open, proof,
			t.since("read", v.SeenAt), t.since("oldest session", v.OldestAt), t.since("refused since", v.RefusedSince), t.since("end", v.EndsAt))
	}
	if d := c.Drain; d != nil {
		t.line("  drain: %d of %d left, began %s, until %s", d.Left, d.Size, t.when(d.Since), t.when(d.Until))
	}
	t.line("  logins: %d, the last %s; %d refused, %d failed; %d wait now; %d connections outlived their credential", c.Logins, t.when(c.LastLoginAt), c.Refused, c.Failed, c.Waiting, c.Outlived)
	t.line("  source: read %s%s", t.when(c.SourceReadAt), t.since("successor due", c.SuccessorDueAt))
	t.window(c.Window)
	t.observed(c.Observed)
	t.line("  rotations: %d", c.Rotations)
	for _, r := range slices.Backward(c.LastRotations) {
		drained := "not drained"
		if r.Drained > 0 {
			drained = fmt.Sprintf("%d connections replaced in %s", r.Drained, seconds(r.DrainSeconds))
		}
		t.line("    %s to version %d, user %q: %d refusals%s, %s, %d cut off", r.At.Format(time.RFC3339), r.Version, r.Username, r.Refusals, t.since("proven", r.ProvenAt), drained, r.CutOff)
	}
}

func (t *text) window(w Window) {
	lifetime := "no limit"
	if w.MaxLifetimeSeconds > 0 {
		lifetime = seconds(w.MaxLifetimeSeconds)
	}
	if w.OverlapSeconds > 0 {
		t.line("  window: overlap %s - lag %s - in use %s; a connection lives %s", seconds(w.OverlapSeconds), seconds(w.LagSeconds), seconds(w.MaxInUseSeconds), lifetime)
		return
	}
	t.line("  window: no overlap; a connection lives %s", lifetime)
}

func (t *text) observed(o Observed) {
	var all []string
	for _, x := range []struct {
		what string
		took float64
		at   time.Time
	}{
		{"use", o.LongestUseSeconds, o.LongestUseAt},
		{"lag", o.SourceLagSeconds, o.SourceLagAt},
		{"login", o.LongestLoginSeconds, o.LongestLoginAt},
		{"timer late by", o.TimerLatenessSeconds, o.TimerLatenessAt},
	} {
		if !x.at.IsZero() {
			all = append(all, fmt.Sprintf("%s %v (%s)", x.what, time.Duration(x.took*float64(time.Second)).Round(time.Millisecond), t.when(x.at)))
		}
	}
	if len(all) > 0 {
		t.line("  observed, the worst since %s: %s", o.Since.Format(time.RFC3339), strings.Join(all, ", "))
	}
}

func (t *text) source(s Source) {
	t.line("")
	t.line("%s %s%s: user %q, %d reads%s%s%s%s%s", s.Kind, s.Name, in(strings.TrimSpace(s.Path+" "+s.Format)), s.Username, s.Reads,
		t.since("loaded", s.LoadedAt), t.since("checked", s.CheckedAt), t.since("modified", s.ModifiedAt), t.since("next fetch", s.NextAt), t.since("end", s.EndsAt))
	if s.Divergence != "" {
		t.line("  differs from what is loaded: %s%s", s.Divergence, t.since("began", s.DivergedSince))
	}
	if s.Failures > 0 {
		t.line("  %d failures%s: %s", s.Failures, t.since("the first", s.FailingSince), s.Err)
	}
}

func in(what string) string {
	if what == "" {
		return ""
	}
	return " (" + what + ")"
}
