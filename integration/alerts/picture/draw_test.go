package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

// What is drawn is XML, and no text is on another one or beyond the edge.
func TestPicture(t *testing.T) {
	values := func(f func(i int) float64) []float64 {
		all := none(301)
		for i := range all {
			all[i] = f(i)
		}
		return all
	}
	age := values(func(i int) float64 { return float64(i % 60) })
	gone := values(func(i int) float64 {
		if i%100 < 50 {
			return math.NaN()
		}
		return -20 + float64(i)
	})
	c := chart{lines: []line{{"orders", age}, {"billing: a long name & <more>", gone}, {"billing: successor due", gone}, {"another one", age}}}
	c.Title = "Since the file was last read and found good"
	c.FieldConfig.Defaults.Unit = "s"
	empty := chart{}
	empty.FieldConfig.Defaults.NoValue = "there are none"
	stacked := c
	stacked.lines = c.lines[:2]
	stacked.FieldConfig.Defaults.Custom.Stacking.Mode = "normal"
	number := chart{lines: []line{{"orders", age}, {"billing", age}}}
	number.Title = "Connected with an old login"
	p := picture{end: 5 * time.Minute, stats: []chart{number, number, number}, rows: []row{{"Is it?", []chart{c, empty}}, {"Is it not?", []chart{stacked, c}}}, rotations: []line{{"", gone}}}
	svg := p.svg()
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Error("it is drawn where nothing is")
	}
	if err := p.legible(); err != nil {
		t.Error(err)
	}
	p.text(12, 24, small, "start", "normal", ink, "on top of another one")
	if p.legible() == nil {
		t.Error("a text on another one isn't found")
	}
}
