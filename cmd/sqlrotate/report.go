// What the demo says. Every line fits into 80 columns.

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const columns = 80

// opening says what runs, above the lines.
func (d demo) opening(file, host string, port int) string {
	lifetime, _ := d.window().MaxLifetime() // checked
	w := d.window()
	var b strings.Builder
	b.WriteString(wrap("", fmt.Sprintf("PostgreSQL listens at %s:%d. Every %v the agent makes a login there, writes it to %s, and drops the one before %v later. Each application has a pool of %s and %s.",
		host, port, d.every, file, d.dropAfter(), counted(d.connections, "connection"), counted(d.workers, "worker"))))
	b.WriteString("\n")
	b.WriteString(wrap("  sqlrotate     ", fmt.Sprintf("reads the file and retires connections in time: overlap %v - lag %v - max in use %v = %v to live", w.Overlap, w.Lag, w.MaxInUse, lifetime)))
	b.WriteString(wrap("  lib/pq fixed  ", "has the login that was in the file at the start"))
	third := "reads the file for each login; SetConnMaxLifetime is not set"
	if d.lifetime > 0 {
		third = fmt.Sprintf("reads the file for each login; SetConnMaxLifetime(%v)", d.lifetime)
	}
	b.WriteString(wrap("  lib/pq reads  ", third))
	b.WriteString("\n" + heading)
	return b.String()
}

const heading = "" +
	"        logins   sqlrotate              pool  lib/pq fixed       lib/pq reads\n" +
	" time made gone     ok  fail   max new old     ok  fail   max     ok  fail   max\n"

// line is what happened in a second.
type line struct {
	elapsed         time.Duration
	made, dropped   int // logins
	apps            [3]tally
	latest, earlier int // connections of the first application, by login
}

func (l line) String() string {
	group := func(t tally) string {
		slowest := "-"
		if t.requests > t.failed {
			slowest = brief(t.slowest)
		}
		return fmt.Sprintf("%5s %5s %5s", short(t.requests-t.failed), short(t.failed), slowest)
	}
	return fmt.Sprintf("%5s %4s %4s  %s %3d %3d  %s  %s\n", fmt.Sprintf("%.0fs", l.elapsed.Seconds()), short(l.made), short(l.dropped),
		group(l.apps[0]), l.latest, l.earlier, group(l.apps[1]), group(l.apps[2]))
}

// short is n in at most four characters.
func short(n int) string {
	switch {
	case n < 10_000:
		return fmt.Sprint(n)
	case n < 1_000_000:
		return fmt.Sprintf("%dk", n/1000)
	default:
		return fmt.Sprintf("%dM", n/1_000_000)
	}
}

// brief is d in at most five characters.
func brief(d time.Duration) string {
	switch {
	case d < 999500*time.Nanosecond:
		return d.Round(time.Microsecond).String()
	case d < 9950*time.Microsecond:
		return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
	case d < 999500*time.Microsecond:
		return fmt.Sprintf("%.0fms", float64(d)/float64(time.Millisecond))
	case d < 99950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	default:
		return fmt.Sprintf("%.0fs", d.Seconds())
	}
}

// outcome is what the demo came to.
type outcome struct {
	demo demo
	took time.Duration
	peak int // connections of the first application
	books
	stall time.Duration // the longest that the machine let lib/pq or a timer wait
	apps  [3]result     // sqlrotate, lib/pq with a fixed login, lib/pq that reads
}

// result is what an application came to.
type result struct {
	totals
	outlived  int // sessions that were open when their login was dropped
	survivors int // of them, those that were open at the end
}

// good reports whether the rotations went unnoticed.
func (o outcome) good() bool {
	r := o.apps[0]
	return r.failed == 0 && r.requests > 0 && r.outlived == 0 && r.survivors == 0 && len(o.problems) == 0
}

// closing says what it came to, why, and what to do next.
func (o outcome) closing() string {
	paragraphs := []string{o.figures(), o.verdict(), o.errors(), o.half(), o.counts(), o.room()}
	for _, problem := range o.problems {
		paragraphs = append(paragraphs, wrap("", "The agent had a problem: "+problem))
	}
	paragraphs = append(paragraphs, o.next())
	var b strings.Builder
	for _, p := range paragraphs {
		if p != "" {
			b.WriteString("\n" + p)
		}
	}
	return b.String()
}

func (o outcome) figures() string {
	var b strings.Builder
	row := func(name string, of func(result) string) {
		fmt.Fprintf(&b, "%-35s %13s %14s %14s\n", name, of(o.apps[0]), of(o.apps[1]), of(o.apps[2]))
	}
	name := names()
	fmt.Fprintf(&b, "%-35s %13s %14s %14s\n", "After "+o.took.Round(100*time.Millisecond).String(), name[0], name[1], name[2])
	row("requests", func(r result) string { return fmt.Sprint(r.requests) })
	row("  failed", func(r result) string { return fmt.Sprint(r.failed) })
	row("sessions open when their login went", func(r result) string { return fmt.Sprint(r.outlived) })
	row("  and still open at the end", func(r result) string { return fmt.Sprint(r.survivors) })
	return b.String()
}

func (o outcome) verdict() string {
	r := o.apps[0]
	switch {
	case o.good() && o.revoked == 0:
		return wrap("", "sqlrotate: no request failed, but no login was dropped either.")
	case o.good():
		return wrap("", fmt.Sprintf("sqlrotate: no request failed in %s, and no session outlived its login.", counted(o.rotations, "rotation")))
	case r.requests == 0:
		return wrap("", "sqlrotate: there was no request.")
	case r.failed == 0 && r.outlived == 0 && r.survivors == 0:
		return "" // the agent is to blame
	}
	what := fmt.Sprintf("sqlrotate: %s failed, and %s outlived their login. ", counted(r.failed, "request"), counted(r.outlived, "session"))
	if o.demo.dropAfter() < o.demo.overlap {
		return wrap("", what+fmt.Sprintf("The agent broke its promise: it dropped logins after %v, and the window counts on %v. That number must be true; all else is arithmetic.",
			o.demo.dropAfter(), o.demo.overlap))
	}
	if w := o.demo.window(); o.stall > w.Lag {
		return wrap("", what+fmt.Sprintf("This machine stalls: it let others wait for %s, and the window has %v for the file and %v for a request. Nothing is proven: try a longer -overlap.", brief(o.stall), w.Lag, w.MaxInUse))
	}
	return wrap("", what+"This must not happen: it is a defect. Please report it with what is above.")
}

// names of the applications, as the reader knows them.
func names() [3]string { return [3]string{"sqlrotate", "lib/pq fixed", "lib/pq reads"} }

// errors explains each SQLSTATE that was seen, those that were seen most first.
func (o outcome) errors() string {
	type kind struct {
		state string
		failure
		by []string
	}
	var kinds []kind
	for i, name := range names() {
		for state, f := range o.apps[i].failures {
			at := slices.IndexFunc(kinds, func(k kind) bool { return k.state == state })
			if at < 0 {
				at = len(kinds)
				kinds = append(kinds, kind{state: state, failure: failure{text: f.text}})
			}
			kinds[at].n += f.n
			kinds[at].by = append(kinds[at].by, name)
		}
	}
	slices.SortFunc(kinds, func(a, b kind) int { return cmp.Or(b.n-a.n, strings.Compare(a.state, b.state)) })
	var b strings.Builder
	for i, k := range kinds {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(wrap("", fmt.Sprintf("%s in %s: %s. %s", counted(k.n, "time"), strings.Join(k.by, " and "), k.text, meaning(k.state))))
	}
	return b.String()
}

// meaning says what an SQLSTATE means when logins come and go.
func meaning(state string) string {
	switch state {
	case "42P01":
		return "The table is there. The role that these sessions logged in as is not: PostgreSQL checks a password at login only, so they live on, but their privileges went with the role, and what is in a schema that one may not use doesn't exist, as far as one can see."
	case "42501":
		return "The session lives on, and its role has lost its privileges, or was dropped."
	case "42704":
		return "The session lives on, and its role was dropped."
	case "28P01":
		return "A login with a password that is not, or no longer, the right one, or of a role that was dropped."
	case "28000":
		return "A login of a role that may not log in, or not from here."
	case "3D000":
		return "A login to a database that is not there."
	case "53300":
		return "The server, or the role's CONNECTION LIMIT, has no room for another session."
	case "57P01":
		return "The server was told to end the session, or is being stopped."
	case "57014":
		return "The server cancelled a query, which took too long for the application."
	case "":
		return "The server did not say this: the driver did, or the network, or a context that ended."
	}
	return "What it means is in appendix A of PostgreSQL's documentation."
}

// half explains what became of the application that reads the file.
func (o outcome) half() string {
	r, fix := o.apps[2], o.apps[1]
	lifetime, _ := o.demo.window().MaxLifetime() // checked
	switch {
	case r.failed == 0 && fix.failed == 0:
		return ""
	case r.failed == 0:
		return wrap("", fmt.Sprintf("lib/pq reads came through as well: with SetConnMaxLifetime(%v) its connections were gone in time. That number is what sqlrotate works out from the window; README.md says what else it does, and when you don't need it.", o.demo.lifetime))
	case o.demo.lifetime == 0:
		return wrap("", fmt.Sprintf("To read the file for each login is half of it, and of no use without the other: nobody logs in. database/sql keeps a connection for as long as the driver calls it good, and one whose role was dropped is. A lifetime below %v is the other half: see -lifetime.", lifetime))
	default:
		return wrap("", fmt.Sprintf("SetConnMaxLifetime(%v) makes lib/pq reads log in again, but too late for logins that are dropped %v after their successor's publication: up to %v is in time here.", o.demo.lifetime, o.demo.dropAfter(), lifetime))
	}
}

// counts explains the number of revocations by that of the rotations.
func (o outcome) counts() string {
	text := fmt.Sprintf("There were %s, which makes %s with the first, and %s dropped.",
		counted(o.rotations, "rotation"), counted(o.rotations+1, "login"), were(o.revoked))
	if left := o.rotations - o.revoked; left > 0 && len(o.problems) == 0 {
		text += fmt.Sprintf(" A login goes %v after its successor was published, and for %s of those that had one that time was not over at the end.", o.demo.dropAfter(), number(left))
	}
	return wrap("", text)
}

// room explains a peak above the pool's size.
func (o outcome) room() string {
	if o.peak <= o.demo.connections {
		return ""
	}
	return wrap("", fmt.Sprintf("New and old connections of sqlrotate came to %d at times, and its pool has %d: what replaces a connection logs in before that one goes, so that no request waits for a login. Leave room for it in CONNECTION LIMIT and max_connections.",
		o.peak, o.demo.connections))
}

func (o outcome) next() string {
	return wrap("", "What next:") +
		wrap("  -every 1s -overlap 2s  ", "rotate faster") +
		wrap("  -lifetime 10s          ", "a lifetime for lib/pq reads, too long for this overlap") +
		wrap("  -revoke-after 1s       ", "an agent that breaks its promise, and what that costs") +
		wrap("  README.md              ", "what to change in your program, and the window it needs")
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func were(n int) string {
	if n == 1 {
		return "1 was"
	}
	return fmt.Sprintf("%d were", n)
}

func number(n int) string {
	if n == 1 {
		return "one"
	}
	return fmt.Sprint(n)
}

// wrap breaks text into lines of at most 80 columns. The first begins with a label,
// and the others are indented by as much. A word that is longer is broken.
func wrap(label, text string) string {
	indent := strings.Repeat(" ", utf8.RuneCountInString(label))
	var b strings.Builder
	b.WriteString(label)
	at := len(indent)
	newline := func() {
		b.WriteString("\n" + indent)
		at = len(indent)
	}
	for i, word := range strings.Fields(text) {
		runes := []rune(word)
		if i > 0 {
			if at+1+len(runes) > columns {
				newline()
			} else {
				b.WriteByte(' ')
				at++
			}
		}
		for at+len(runes) > columns {
			b.WriteString(string(runes[:columns-at]))
			runes = runes[columns-at:]
			newline()
		}
		b.WriteString(string(runes))
		at += len(runes)
	}
	return b.String() + "\n"
}
