// Findings: what check and parse have to say, for people and for scripts.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// level is how bad a finding is. The words don't change.
type level string

const (
	levelOK      level = "ok"
	levelNote    level = "note"    // worth knowing
	levelWarning level = "warning" // works, until it doesn't
	levelFail    level = "fail"    // doesn't work
)

// finding is one thing that was found. There is no secret in it.
type finding struct {
	Check   string  `json:"check"` // its name, which doesn't change
	Level   level   `json:"level"`
	Text    string  `json:"text"`
	Details details `json:"details,omitempty"`
}

// details are a finding's facts by name.
type details map[string]any

// findings are in the order in which they are said.
type findings []finding

// add adds a finding. Its text is one line, whatever stands in what it quotes.
func (f *findings) add(check string, l level, d details, format string, args ...any) {
	*f = append(*f, finding{check, l, oneLine(fmt.Sprintf(format, args...)), d})
}

// worst is the level of the worst of them.
func (f findings) worst() level {
	rank := map[level]int{levelOK: 0, levelNote: 1, levelWarning: 2, levelFail: 3}
	worst := levelOK
	for _, each := range f {
		if rank[each.Level] > rank[worst] {
			worst = each.Level
		}
	}
	return worst
}

// status is the exit status that they come to.
func (f findings) status() int {
	if f.worst() == levelFail {
		return statusFailed
	}
	return statusOK
}

// String is a line for each, with what is to be seen first at its beginning.
func (f findings) String() string {
	var b strings.Builder
	for _, each := range f {
		b.WriteString(each.String())
	}
	return b.String()
}

func (f finding) String() string {
	mark := string(f.Level)
	if f.Level == levelFail {
		mark = "FAIL"
	}
	return fmt.Sprintf("%-8s %-14s %s\n", mark, f.Check, f.Text)
}

// write writes the findings, as one line of JSON or as a line for each.
func (f findings) write(w io.Writer, asJSON bool) error {
	if !asJSON {
		_, err := io.WriteString(w, f.String())
		return err
	}
	return writeJSON(w, struct {
		Level    level    `json:"level"`
		Findings findings `json:"findings"`
	}{f.worst(), f})
}

// writeJSON writes a line.
func writeJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(value)
}

// oneLine makes what can't be printed, or would break the line, a space.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}

// many is a number of things.
func many(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
