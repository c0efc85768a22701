package main

import (
	"context"
	"encoding/xml"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A picture is what a dashboard shows in a stretch of time: the numbers at its top, and of
// each row the first two charts.
type picture struct {
	end       time.Duration
	stats     []chart
	rows      []row
	rotations []line

	b     strings.Builder
	texts []box
}

type row struct {
	title  string
	charts []chart
}

type chart struct {
	panel
	lines []line
}

// fill asks for what the panels show.
func (p *picture) fill(ctx context.Context, d dashboard, from *prometheus) error {
	for _, one := range d.Panels {
		last := len(p.rows) - 1
		switch {
		case one.Type == "row":
			p.rows = append(p.rows, row{title: one.Title})
		case last < 0 && one.Type == "stat", last >= 0 && one.Type == "timeseries" && len(p.rows[last].charts) < 2:
			c := chart{panel: one}
			for _, t := range one.Targets {
				lines, err := from.ask(ctx, t.Expr, t.LegendFormat)
				if err != nil {
					return err
				}
				c.lines = append(c.lines, lines...)
			}
			if last < 0 {
				p.stats = append(p.stats, c)
			} else {
				p.rows[last].charts = append(p.rows[last].charts, c)
			}
		}
	}
	for _, a := range d.Annotations.List {
		lines, err := from.ask(ctx, strings.ReplaceAll(a.Expr, "[1m]", "[3s]"), "") // when it was, to the second
		if err != nil {
			return err
		}
		p.rotations = append(p.rotations, lines...)
	}
	return nil
}

// Sizes. At a width of 800 pixels the smallest text is 12 pixels high.
const (
	width    = 1000
	gap      = 12
	small    = 15
	large    = 17
	charting = 244
	numbers  = 76
	heading  = 34
)

// Okabe and Ito's colours, which colour-blind people tell apart.
const (
	blue    = "#0072b2"
	orange  = "#e69f00"
	green   = "#009e73"
	purple  = "#cc79a7"
	red     = "#d55e00"
	sky     = "#56b4e9"
	ink     = "#1f2328"
	grey    = "#6e7781"
	hairs   = "#d8dee4"
	nothing = "none"
)

func palette() []string { return []string{blue, orange, green, purple, sky, red} }

// colour returns the one for Grafana's name of it.
func colour(name string) string {
	for part, c := range map[string]string{"blue": blue, "orange": orange, "purple": purple, "red": red} {
		if strings.Contains(name, part) {
			return c
		}
	}
	return ink
}

// svg draws it.
func (p *picture) svg() string {
	height := numbers + gap
	for range p.rows {
		height += heading + charting + gap
	}
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="%d %d %d %d" width="%d" height="%d" role="img" font-family="Helvetica, Arial, 'Liberation Sans', sans-serif">`+"\n", -gap, -gap, width+2*gap, height+gap, width+2*gap, height+gap)
	p.printf("<title>The dashboard while logins are rotated</title>\n")
	p.rect(-gap, -gap, width+2*gap, float64(height)+gap, "#ffffff", nothing)
	w := (width - float64(gap*(len(p.stats)-1))) / float64(max(1, len(p.stats)))
	for i, c := range p.stats {
		p.number(c, float64(i)*(w+gap), w)
	}
	y := float64(numbers + gap)
	for _, r := range p.rows {
		p.text(0, y+24, large+3, "start", "bold", ink, r.title)
		w := float64(width-gap) / 2
		for i, c := range r.charts {
			p.chart(c, float64(i)*(w+gap), y+heading, w)
		}
		y += heading + charting + gap
	}
	p.printf("</svg>\n")
	return p.b.String()
}

// number draws the last value of each line.
func (p *picture) number(c chart, x, w float64) {
	p.rect(x, 0, w, numbers, "#f6f8fa", hairs)
	p.text(x+10, 24, large-2, "start", "bold", ink, c.Title)
	each := (w - 20) / float64(max(1, len(c.lines)))
	for i, l := range c.lines {
		value, tint := l.values[len(l.values)-1], ink
		said := spell(value, c.FieldConfig.Defaults.Unit)
		for _, s := range c.FieldConfig.Defaults.Thresholds.Steps {
			if s.Value == nil || value >= *s.Value {
				tint = colour(s.Color)
			}
		}
		for _, m := range c.FieldConfig.Defaults.Mappings {
			if o, ok := m.Options[strconv.FormatFloat(value, 'f', -1, 64)]; ok {
				said, tint = o.Text, colour(o.Color)
			}
		}
		at := x + 10 + float64(i)*each
		p.text(at, 58, small, "start", "normal", ink, l.name)
		p.text(at+wide(l.name+" ", small), 60, large+5, "start", "bold", tint, said)
	}
}

func (p *picture) chart(c chart, x, y, w float64) {
	p.rect(x, y, w, charting, nothing, hairs)
	p.text(x+10, y+24, large, "start", "bold", ink, c.Title)
	legend := p.legend(c, x+12, y+charting-12, w-24)
	a := axes{x: x + 66, y: y + 40, w: w - 66 - 14, h: charting - 40 - 34 - legend, end: p.end}
	settings := c.FieldConfig.Defaults
	stacked := settings.Custom.Stacking.Mode == "normal"
	lines := c.lines
	if stacked {
		lines = stack(lines)
	}
	a.low, a.high = bounds(lines)
	p.grid(a, settings.Unit)
	if settings.Custom.ThresholdsStyle.Mode == "line" {
		for _, s := range settings.Thresholds.Steps {
			if s.Value != nil && *s.Value > a.low && *s.Value < a.high {
				p.path(red, 1, "", a.at(0, *s.Value), a.at(p.end, *s.Value))
			}
		}
	}
	if len(lines) == 0 {
		p.text(a.x+a.w/2, a.y+a.h/2, small, "middle", "normal", grey, settings.NoValue)
	}
	below := none(int(p.end/step) + 1)
	for i, style := range c.styles() {
		if stacked {
			p.area(style.colour, a, lines[i].values, below)
			below = lines[i].values
		} else {
			p.line(style, a, lines[i].values)
		}
	}
}

// grid draws what all charts have: values, times and rotations.
func (p *picture) grid(a axes, unit string) {
	for _, v := range ticks(a.low, a.high) {
		p.path(hairs, 1, "", a.at(0, v), a.at(p.end, v))
		p.text(a.x-8, a.py(v)+5, small, "end", "normal", ink, spell(v, unit))
	}
	for t := time.Duration(0); t <= p.end; t += time.Minute {
		anchor := "middle"
		switch {
		case t == 0:
			anchor = "start"
		case a.px(t) > a.x+a.w-26:
			anchor = "end"
		}
		p.text(a.px(t), a.y+a.h+19, small, anchor, "normal", ink, fmt.Sprintf("%d min", int(t.Minutes())))
	}
	for _, l := range p.rotations {
		for i, v := range l.values {
			if v > 0 && (i == 0 || !(l.values[i-1] > 0)) {
				t := time.Duration(i) * step
				p.path(purple, 1.5, "2 3", a.at(t, a.low), a.at(t, a.high))
			}
		}
	}
}

// axes are where the values of a chart are.
type axes struct {
	x, y, w, h float64
	end        time.Duration
	low, high  float64
}

func (a axes) px(t time.Duration) float64 { return a.x + a.w*float64(t)/float64(a.end) }
func (a axes) py(v float64) float64       { return a.y + a.h*(a.high-v)/(a.high-a.low) }

func (a axes) at(t time.Duration, v float64) string {
	return fmt.Sprintf("%.1f,%.1f", a.px(t), a.py(v))
}

// A style is what a line looks like.
type style struct {
	colour, dashes string
}

// styles returns those of a chart's lines. One that is dashed has the colour of the one
// whose limit it is.
func (c chart) styles() []style {
	all := make([]style, len(c.lines))
	by := map[string]string{}
	for i, l := range c.lines {
		for _, o := range c.FieldConfig.Overrides {
			pattern := strings.Trim(o.Matcher.Options, "/")
			if o.Matcher.Options != l.name && (pattern == o.Matcher.Options || !regexp.MustCompile(pattern).MatchString(l.name)) {
				continue
			}
			for _, property := range o.Properties {
				switch value := string(property.Value); {
				case strings.Contains(value, "dash"):
					all[i].dashes = "7 5"
				case strings.Contains(value, "fixedColor"):
					all[i].colour = colour(value)
				}
			}
		}
		of, _, _ := strings.Cut(l.name, ":")
		if all[i].colour == "" && all[i].dashes != "" {
			all[i].colour = by[of]
		}
		if all[i].colour == "" {
			all[i].colour = palette()[len(by)%len(palette())]
			if by[of] != "" {
				of = l.name
			}
			by[of] = all[i].colour
		}
	}
	return all
}

// legend draws the lines' names in rows from the bottom up, and returns how high that is.
func (p *picture) legend(c chart, x, bottom, w float64) float64 {
	const high, swatch, apart = 20, 28, 16
	type entry struct {
		x   float64
		row int
	}
	var entries []entry
	at, rows := 0.0, 0
	for _, l := range c.lines {
		need := swatch + wide(l.name, small)
		if at > 0 && at+need > w {
			at, rows = 0, rows+1
		}
		entries = append(entries, entry{x + at, rows})
		at += need + apart
	}
	for i, style := range c.styles() {
		y := bottom - high*float64(rows-entries[i].row)
		p.path(style.colour, 4, style.dashes, fmt.Sprintf("%.1f,%.1f", entries[i].x, y-5), fmt.Sprintf("%.1f,%.1f", entries[i].x+20, y-5))
		p.text(entries[i].x+swatch, y, small, "start", "normal", ink, c.lines[i].name)
	}
	return float64(high * (rows + 1))
}

func none(n int) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = math.NaN()
	}
	return values
}

// stack returns the lines one on top of the other.
func stack(lines []line) []line {
	var all []line
	for i, l := range lines {
		sum := slices.Clone(l.values)
		if i > 0 {
			for j, v := range all[i-1].values {
				if !math.IsNaN(v) {
					sum[j] += v
				}
			}
		}
		all = append(all, line{l.name, sum})
	}
	return all
}

// bounds returns what the values are between, with 0 and a little more.
func bounds(lines []line) (low, high float64) {
	high = math.Inf(-1)
	for _, l := range lines {
		for _, v := range l.values {
			if !math.IsNaN(v) {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	if high <= low {
		high = low + 1
	}
	return low, high + (high-low)*.05
}

// ticks returns three to six round values in between.
func ticks(low, high float64) []float64 {
	apart := math.Pow(10, math.Floor(math.Log10((high-low)/3)))
	for _, more := range []float64{5, 2} {
		if (high-low)/(apart*more) >= 2.5 {
			apart *= more
			break
		}
	}
	var all []float64
	for v := math.Ceil(low/apart) * apart; v <= high; v += apart {
		all = append(all, math.Round(v/apart)*apart+0) // not -0
	}
	return all
}

// spell writes a value with its unit.
func spell(v float64, unit string) string {
	said := strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
	switch unit {
	case "s":
		if v >= 10 {
			said = strconv.FormatFloat(math.Round(v), 'f', -1, 64)
		}
		return said + " s"
	case "cps":
		return said + "/s"
	}
	return said
}

// line draws values that are next to one another.
func (p *picture) line(s style, a axes, values []float64) {
	var points []string
	flush := func() {
		if len(points) > 0 {
			p.path(s.colour, 2.5, s.dashes, append(points, points[len(points)-1])...)
		}
		points = nil
	}
	for i, v := range values {
		if math.IsNaN(v) {
			flush()
			continue
		}
		points = append(points, a.at(time.Duration(i)*step, v))
	}
	flush()
}

// area fills what is between the values and those below.
func (p *picture) area(colour string, a axes, values, below []float64) {
	var up, down []string
	for i, v := range values {
		if math.IsNaN(v) {
			continue
		}
		base := below[i]
		if math.IsNaN(base) {
			base = 0
		}
		from, to := time.Duration(i)*step, min(time.Duration(i+1)*step, a.end)
		up = append(up, a.at(from, v), a.at(to, v))
		down = append(down, a.at(from, base), a.at(to, base))
	}
	slices.Reverse(down)
	p.printf(`<polygon fill="%s" points="%s"/>`+"\n", colour, strings.Join(append(up, down...), " "))
}

func (p *picture) path(colour string, w float64, dashes string, points ...string) {
	dashed := ""
	if dashes != "" {
		dashed = ` stroke-dasharray="` + dashes + `"`
	}
	p.printf(`<polyline fill="none" stroke="%s" stroke-width="%g"%s points="%s"/>`+"\n", colour, w, dashed, strings.Join(points, " "))
}

func (p *picture) rect(x, y, w, h float64, fill, stroke string) {
	p.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" stroke="%s"/>`+"\n", x, y, w, h, fill, stroke)
}

// A box is where a text is.
type box struct {
	text       string
	x, y, w, h float64
}

func (b box) overlaps(o box) bool {
	return b.x < o.x+o.w && o.x < b.x+b.w && b.y < o.y+o.h && o.y < b.y+b.h
}

// wide is how wide a text is at the most, roughly.
func wide(text string, size float64) float64 { return .56 * size * float64(len([]rune(text))) }

func (p *picture) text(x, y, size float64, anchor, weight, fill, text string) {
	b := box{text, x, y - size*.8, wide(text, size), size}
	switch anchor {
	case "middle":
		b.x -= b.w / 2
	case "end":
		b.x -= b.w
	}
	p.texts = append(p.texts, b)
	p.printf(`<text x="%.1f" y="%.1f" font-size="%g" text-anchor="%s" font-weight="%s" fill="%s">`, x, y, size, anchor, weight, fill)
	_ = xml.EscapeText(&p.b, []byte(text)) // a Builder never fails
	p.b.WriteString("</text>\n")
}

func (p *picture) printf(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

// legible says which texts are on another one, or beyond the edge.
func (p *picture) legible() error {
	for i, b := range p.texts {
		if b.x < 0 || b.x+b.w > width {
			return fmt.Errorf("%q is beyond the edge", b.text)
		}
		for _, other := range p.texts[:i] {
			if b.overlaps(other) {
				return fmt.Errorf("%q is on %q", b.text, other.text)
			}
		}
	}
	return nil
}
