// The charts of the race: a lane for each contender, with the latency of its operations
// over the time of the story, and its sessions by login beneath.

package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"time"
)

// palette is the colours of a chart. Those that mean something are told apart by people
// who see colours otherwise, too (Okabe and Ito).
type palette struct {
	suffix                  string // of the file's name
	paper, ink, faint       string
	latency, failure        string
	oldSessions, newSession string
}

func palettes() []palette {
	return []palette{
		{"", "#ffffff", "#1f2328", "#d1d9e0", "#59636e", "#d55e00", "#999999", "#0072b2"},
		{"-dark", "#0d1117", "#f0f6fc", "#3d444d", "#9198a1", "#d55e00", "#565f6a", "#56b4e9"},
	}
}

const (
	width        = 800
	left, right  = 56, 12
	header       = 64
	laneTitle    = 22
	latencyPart  = 62
	sessionsPart = 30
	laneGap      = 14
	laneHeight   = laneTitle + latencyPart + 4 + sessionsPart + laneGap
	footer       = 64

	bucket  = 100 * time.Millisecond
	fastest = 100 * time.Microsecond // the ends of the scale of latencies
	slowest = 10 * time.Second
)

// drawing is an SVG that is being drawn.
type drawing struct {
	bytes.Buffer
	palette

	narrower float64 // than width
	from, to time.Duration
}

// edge is the right end of the lanes.
func (d *drawing) edge() float64 { return width - d.narrower - right }

func (d *drawing) x(at time.Duration) float64 {
	return left + float64(at-d.from)/float64(d.to-d.from)*(d.edge()-left)
}

func (d *drawing) put(format string, args ...any) { fmt.Fprintf(&d.Buffer, format+"\n", args...) }

func (d *drawing) text(x, y float64, anchor, colour, size, text string) {
	var escaped bytes.Buffer
	_ = xml.EscapeText(&escaped, []byte(text)) // a Buffer takes everything
	d.put(`<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" font-size="%s">%s</text>`, x, y, anchor, colour, size, escaped.String())
}

func (d *drawing) line(x1, y1, x2, y2 float64, colour, more string) {
	d.put(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" %s/>`, x1, y1, x2, y2, colour, more)
}

func (d *drawing) box(x, y, w, h float64, colour string) {
	d.put(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, x, y, w, h, colour)
}

// drawStory returns the chart of a story. One that is narrower is seen larger.
func drawStory(s story, lanes []lane, machine string, p palette, narrower float64) []byte {
	d := &drawing{palette: p, narrower: narrower, from: -opening, to: s.end}
	height := float64(header + len(lanes)*laneHeight + footer)
	d.put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="ui-sans-serif, Helvetica, Arial, sans-serif">`, width-narrower, height)
	d.box(0, 0, width-narrower, height, p.paper)
	d.text(left, 22, "start", p.ink, "15", s.title)
	for i, m := range marks(lanes) { // above the lanes, on lines of their own if they are near one another
		d.text(d.x(m.at), 42+float64(i%2)*14, d.anchorAt(d.x(m.at)), p.latency, "11", m.what)
	}
	y := float64(header)
	for _, l := range lanes {
		d.lane(l, y)
		y += laneHeight
	}
	for at := time.Duration(0); at <= s.end; at += 2 * time.Second {
		d.text(d.x(at), y+4, "middle", p.latency, "11", axis(at))
	}
	d.legend(y + 26)
	d.text(left, y+50, "start", p.latency, "11", machine)
	d.put("</svg>")
	return d.Bytes()
}

// marks are what happened to the first of the lanes: the same happened to all.
func marks(lanes []lane) []mark {
	if len(lanes) == 0 {
		return nil
	}
	return lanes[0].marks
}

func (d *drawing) anchorAt(x float64) string {
	if x > d.edge()-80 {
		return "end"
	}
	return "start"
}

func (d *drawing) lane(l lane, y float64) {
	d.text(left, y+14, "start", d.ink, "13", l.name)
	colour := d.latency
	if len(l.failed) > 0 {
		colour = d.failure
	}
	d.text(d.edge(), y+14, "end", colour, "12", fmt.Sprintf("%s failed of %s, p99.9 %s ms, longest %s ms",
		thousands(len(l.failed)), thousands(len(l.samples)), short(l.worst.p999ms()), short(l.worst.maxms())))
	top := y + laneTitle
	d.latencies(l, top)
	d.census(l, top+latencyPart+4)
	for _, m := range l.marks {
		d.line(d.x(m.at), top, d.x(m.at), top+latencyPart+4+sessionsPart, d.ink, `stroke-dasharray="2 3" stroke-width="0.8"`)
	}
}

// latencies draws the longest operation in each bucket of time, and where any failed.
func (d *drawing) latencies(l lane, top float64) {
	height := func(latency time.Duration) float64 {
		share := math.Log(float64(latency)/float64(fastest)) / math.Log(float64(slowest)/float64(fastest))
		return latencyPart * min(1, max(0, share))
	}
	bottom := top + latencyPart
	for _, at := range []time.Duration{time.Millisecond, 100 * time.Millisecond, slowest} {
		y := bottom - height(at)
		d.line(left, y, d.edge(), y, d.faint, `stroke-width="0.6"`)
		d.text(left-4, y+3.5, "end", d.latency, "10", axis(at))
	}
	n := int((d.to - d.from) / bucket)
	longest, failed := make([]float64, n), make([]float64, n)
	index := func(t time.Time) (int, bool) {
		at := t.Sub(l.start) - d.from
		return int(at / bucket), at >= 0 && at < time.Duration(n)*bucket
	}
	for _, s := range l.samples {
		if i, ok := index(s.done); ok {
			longest[i] = max(longest[i], height(s.latency))
		}
	}
	for _, t := range l.failed {
		if i, ok := index(t); ok {
			longest[i], failed[i] = 0, latencyPart
		}
	}
	at := func(i int) time.Duration { return d.from + time.Duration(i)*bucket }
	d.steps(n, at, func(i int) (float64, float64) { return bottom, bottom - longest[i] }, d.latency)
	d.steps(n, at, func(i int) (float64, float64) { return bottom, bottom - failed[i] }, d.failure)
}

// census draws the sessions, those of the old login beneath the others.
func (d *drawing) census(l lane, top float64) { d.censusOf(l.sessions, d.from, d.to, top) }

// censusOf draws the sessions that were counted from and until.
func (d *drawing) censusOf(counted []census, from, to time.Duration, top float64) {
	most := 1
	for _, c := range counted {
		most = max(most, c.old+c.new)
	}
	bottom, scale := top+sessionsPart, sessionsPart/float64(most)
	d.line(left, bottom, d.edge(), bottom, d.faint, `stroke-width="0.6"`)
	d.text(left-4, top+8, "end", d.latency, "10", fmt.Sprint(most))
	d.text(left-4, bottom+2, "end", d.latency, "10", "0")
	n := len(counted)
	at := func(i int) time.Duration {
		switch i {
		case 0:
			return from // nothing was counted before
		case n:
			return to
		}
		return min(counted[i].at, to)
	}
	y := func(sessions int) float64 { return bottom - float64(sessions)*scale }
	d.steps(n, at, func(i int) (float64, float64) { return bottom, y(counted[i].old) }, d.oldSessions)
	d.steps(n, at, func(i int) (float64, float64) {
		c := counted[i]
		return y(c.old), y(c.old + c.new)
	}, d.newSession)
}

// steps fills, for each of n steps from at(i) to at(i+1), what is between two heights:
// those that follow one another alike as one, without a seam.
func (d *drawing) steps(n int, at func(int) time.Duration, between func(int) (from, to float64), colour string) {
	fmt.Fprint(&d.Buffer, `<path d="`)
	for i := 0; i < n; {
		from, to := between(i)
		first := i
		for i++; i < n; i++ {
			if f, t := between(i); f != from || t != to {
				break
			}
		}
		if from > to {
			fmt.Fprintf(&d.Buffer, "M%.1f %.1fV%.1fH%.1fV%.1fz", d.x(at(first)), from, to, d.x(at(i)), from)
		}
	}
	d.put(`" fill="%s" shape-rendering="crispEdges"/>`, colour)
}

func (d *drawing) legend(y float64) {
	d.items(y, []legendItem{
		{d.latency, "longest operation in 0.1 s"},
		{d.failure, "a failure"},
		{d.oldSessions, "sessions: old role"},
		{d.newSession, "new role"},
	})
}

type legendItem struct{ colour, what string }

// items writes a legend.
func (d *drawing) items(y float64, items []legendItem) {
	x := float64(left)
	for _, item := range items {
		d.box(x, y-9, 10, 10, item.colour)
		d.text(x+15, y, "start", d.ink, "11", item.what)
		x += 15 + float64(len(item.what))*5.6 + 24
	}
}

// axis writes a latency as short as it goes.
func axis(d time.Duration) string {
	if d == 0 || d >= time.Second {
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return fmt.Sprintf("%d ms", d/time.Millisecond)
}

// thousands writes a number with commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
