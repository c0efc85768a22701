// The charts of the fleet: logins a second on a scale of powers of ten, and the sessions
// by login beneath.

package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"
)

const (
	ratePart   = 84
	rateHeight = laneTitle + ratePart + 6 + sessionsPart + laneGap
)

// rates draws logins a second over time: heights are powers of ten up to the top.
type rates struct {
	*drawing
	top, bottom float64
	most        float64 // at the top
}

func (d *drawing) rates(top, height, most float64) rates {
	r := rates{d, top, top + height, math.Pow(10, math.Ceil(math.Log10(max(most, 10))))}
	for v := 1.0; v <= r.most; v *= 10 {
		y := r.y(v)
		d.line(left, y, width-right, y, d.faint, `stroke-width="0.6"`)
		d.text(left-4, y+3.5, "end", d.latency, "10", thousands(int(v)))
	}
	return r
}

// y is the height of a rate; what is below one a second is at the bottom.
func (r rates) y(rate float64) float64 {
	lowest := 0.5
	share := math.Log(max(rate, lowest)/lowest) / math.Log(r.most/lowest)
	return r.bottom - share*(r.bottom-r.top)
}

// fill draws each second's logins as a column.
func (r rates) fill(from time.Duration, logins []int, colour string) {
	at := func(i int) time.Duration { return min(r.to, max(r.from, from+time.Duration(i)*time.Second)) }
	r.steps(len(logins), at, func(i int) (float64, float64) { return r.bottom, r.y(float64(logins[i])) }, colour)
}

// level draws a rate as a line.
func (r rates) level(from, to time.Duration, rate float64) {
	r.line(r.x(from), r.y(rate), r.x(to), r.y(rate), r.ink, `stroke-dasharray="6 4" stroke-width="1"`)
}

// seconds counts the logins of each second of what was watched.
func (s *seen) seconds() []int {
	n := make([]int, int((s.lead+s.end)/time.Second)+1)
	for _, at := range s.logins {
		n[int((at+s.lead)/time.Second)]++
	}
	return n
}

// drawFleet draws the charts into the directory.
func drawFleet(dir string, all []*seen, big []*curve, version string) error {
	var whole, early []*seen
	for _, s := range all {
		if s.early {
			early = append(early, s)
		} else {
			whole = append(whole, s)
		}
	}
	f := all[0].formation
	title := fmt.Sprintf("%d processes with a pool of %d: logins a second, and sessions", f.processes, f.conns)
	for _, p := range palettes() {
		for name, chart := range map[string][]byte{
			"fleet": drawActs(title, whole, version, p),
			"early": drawActs(title+", the old role dropped in mid-drain", early, version, p),
			"pods":  drawPods(big, version, p),
		} {
			if err := os.WriteFile(filepath.Join(dir, name+p.suffix+".svg"), chart, 0o644); err != nil { //nolint:gosec // for everybody
				return err
			}
		}
	}
	return nil
}

func (d *drawing) begin(height float64, title string) {
	d.put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" font-family="ui-sans-serif, Helvetica, Arial, sans-serif">`, width, height)
	d.box(0, 0, width, height, d.paper)
	d.text(left, 22, "start", d.ink, "15", title)
}

// drawActs returns the chart of some acts, one beneath the other.
func drawActs(title string, all []*seen, version string, p palette) []byte {
	d := &drawing{palette: p}
	most := 1.0
	for _, s := range all {
		d.from, d.to = min(d.from, -s.lead), max(d.to, s.end)
		most = max(most, s.peak(time.Second))
	}
	d.begin(float64(header-24+len(all)*rateHeight+footer), title)
	y := float64(header - 24)
	for _, s := range all {
		d.act(s, y, most)
		y += rateHeight
	}
	d.timeAxis(y + 4)
	d.items(y+26, []legendItem{
		{d.newSession, "logins in a second, and sessions of the new role"},
		{d.oldSessions, "sessions of the old one"},
		{d.failure, "an operation failed"},
	})
	d.renewalItem(y + 42)
	d.text(left, y+60, "start", p.latency, "11", version)
	d.put("</svg>")
	return d.Bytes()
}

// timeAxis writes seconds beneath the lanes: some ten of them, at round numbers.
func (d *drawing) timeAxis(y float64) {
	step := 5 * time.Second
	for _, longer := range []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute} {
		if (d.to-d.from)/step > 14 {
			step = longer
		}
	}
	for at := d.from.Truncate(step); at <= d.to; at += step {
		anchor := "middle"
		if d.x(at) > width-right-10 {
			anchor = "end"
		}
		if at >= d.from {
			d.text(d.x(at), y, anchor, d.latency, "11", fmt.Sprintf("%d s", at/time.Second))
		}
	}
}

func (d *drawing) act(s *seen, y, most float64) {
	d.text(left, y+14, "start", d.ink, "13", s.name)
	colour := d.latency
	if len(s.failed) > 0 {
		colour = d.failure
	}
	gone := "old sessions left at the end"
	if s.gone >= 0 {
		gone = fmt.Sprintf("last old session gone after %.1f s", s.gone.Seconds())
	}
	d.text(width-right, y+14, "end", colour, "12", fmt.Sprintf("busiest second %s logins, %s, %s failed of %s",
		thousands(int(s.peak(time.Second))), gone, thousands(len(s.failed)), thousands(len(s.samples))))
	top := y + laneTitle
	r := d.rates(top, ratePart, most)
	r.fill(-s.lead, s.seconds(), d.newSession)
	failed := make([]int, len(s.seconds()))
	for _, t := range s.failed {
		failed[int((t.Sub(s.start)+s.lead)/time.Second)] = int(r.most)
	}
	at := func(i int) time.Duration { return min(r.to, -s.lead+time.Duration(i)*time.Second) }
	d.steps(len(failed), at, func(i int) (float64, float64) {
		if failed[i] > 0 {
			return r.bottom + 5, r.bottom
		}
		return r.bottom, r.bottom
	}, d.failure)
	r.level(-s.lead, min(s.end, d.to), s.renewal())
	d.censusOf(s.sessions, -s.lead, s.end, top+ratePart+6)
	bottom := top + ratePart + 6 + sessionsPart
	d.event(0, top, bottom, "")
	if s.drop <= s.end {
		d.event(s.drop, top, bottom, "old role dropped")
	}
	if s.end < d.to-time.Second {
		d.text(d.x(s.end)+8, top+ratePart/2+3, "start", d.latency, "11", "not watched any longer")
	}
}

// event draws when something happened.
func (d *drawing) event(at time.Duration, top, bottom float64, what string) {
	x := d.x(at)
	d.line(x, top, x, bottom, d.ink, `stroke-dasharray="2 3" stroke-width="0.8"`)
	if what == "" {
		return
	}
	anchor, dx := "start", 4.0
	if x > width-right-110 {
		anchor, dx = "end", -4
	}
	d.text(x+dx, top+10, anchor, d.latency, "11", what)
}

// drawPods returns the chart of the simulated pods: where they see the login one by one,
// and where they all do at once.
func drawPods(big []*curve, version string, p palette) []byte {
	c := big[0]
	d := &drawing{palette: p, from: c.from, to: c.from + time.Duration(len(c.logins))*time.Second}
	const part = 150
	most := 1.0
	for _, c := range big[:4] {
		most = max(most, c.most(1))
	}
	d.begin(header-24+2*(laneTitle+part+laneGap)+footer-14, fmt.Sprintf("%s pods with a pool of ten, simulated: logins a second", thousands(c.sessions/10)))
	y := float64(header - 24)
	for i, title := range []string{"They see the new login one by one, within 90 s, as the kubelet gives it", "They all see it at once"} {
		calm, flip := big[i], big[2+i]
		d.text(left, y+14, "start", d.ink, "13", title)
		top := y + laneTitle
		r := d.rates(top, part, most)
		r.fill(flip.from, flip.logins, d.failure)
		r.fill(calm.from, calm.logins, d.newSession)
		r.level(d.from, d.to, calm.steady())
		d.event(0, top, top+part, "")
		y += laneTitle + part + laneGap
	}
	d.timeAxis(y + 4)
	d.items(y+26, []legendItem{{d.newSession, "DrainTime as it is by default, two minutes"}, {d.failure, "DrainTime: -1, a pool at once"}})
	d.renewalItem(y + 42)
	d.text(left, y+60, "start", p.latency, "11", version)
	d.put("</svg>")
	return d.Bytes()
}

func (d *drawing) renewalItem(y float64) {
	d.line(left, y-4, left+26, y-4, d.ink, `stroke-dasharray="6 4" stroke-width="1"`)
	d.text(left+31, y, "start", d.ink, "11", "what it takes to renew all connections in their time, a second; the new login is published at 0 s")
}
