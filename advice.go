// Advice: which part of the window is too small for what was observed, and what to put in.

package sqlrotate

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/rotation"
)

// advice is what to do about a part of the window that is too small.
type advice struct {
	part  string        // the field that says it
	is    time.Duration // now
	least time.Duration // to put in
	saw   Worst         // what doesn't fit; zero for the sum
	text  string
}

// advise returns what is too small for what was observed: by more than punctual, which says
// nothing. Without an overlap nothing ends that a use or a lag could be too long for; but
// in place, logins wait for the new password while it is on its way.
func (w WindowStats) advise(kind rotation.Kind, o Observed) []advice {
	var all []advice
	say := func(part string, is time.Duration, saw Worst, need time.Duration, format string) {
		if saw.At.IsZero() || need <= is+punctual {
			return
		}
		a := advice{part: part, is: is, least: roomFor(need), saw: saw}
		a.text = fmt.Sprintf("%s is %v, but "+format, part, is, rough(saw.Took), saw.At.UTC().Format(time.RFC3339), a.least)
		all = append(all, a)
	}
	switch kind {
	case rotation.Overlapping:
		say("Window.MaxInUse", w.MaxInUse, o.LongestUse, o.LongestUse.Took,
			"a connection was in use for %v, until %s, and a rotation cuts off what is in use for so long: set it to %v at least, or end such uses sooner")
		say("Window.Lag", w.Lag, o.SourceLag, o.SourceLag.Took,
			"a credential was read %v after it was written, at %s, and the old one may be revoked before its time is thought to be over: set it to %v at least, or have the credential arrive sooner")
		if sum, ok := w.sum(all); ok {
			all = append(all, sum)
		}
	case rotation.InPlace:
		if w.RetryTimeout > 0 { // else logins aren't meant to wait
			say("Config.RetryTimeout", w.RetryTimeout, o.SourceLag, o.SourceLag.Took+o.LongestLogin.Took,
				"a new password was read %v after it was written, at %s, and logins fail that wait for it: set it to %v at least, or have the password arrive sooner")
		}
	case rotation.LoginTokens:
	}
	return all
}

// sum says that the overlap has no room for what the other parts should be, if that is so.
func (w WindowStats) sum(others []advice) (advice, bool) {
	lag, use := w.Lag, w.MaxInUse
	for _, a := range others {
		switch a.part {
		case "Window.Lag":
			lag = a.least
		case "Window.MaxInUse":
			use = a.least
		}
	}
	least := lag + use + shortLifetime
	if len(others) == 0 || least <= w.Overlap {
		return advice{}, false
	}
	return advice{part: "Window.Overlap", is: w.Overlap, least: least, text: fmt.Sprintf(
		"Window.Overlap is %v, which has no room for a Lag of %v, a MaxInUse of %v and a connection's life between them: an overlap of %v is the least, where the credential is made",
		w.Overlap, lag, use, least)}, true
}

// roomFor returns what to allow for what has taken so long: a quarter more, because what was
// seen is hardly the worst that there can be, and rounded up.
func roomFor(took time.Duration) time.Duration {
	least := took + took/4
	step := time.Millisecond
	for _, s := range []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, time.Second, 5 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour} {
		if s <= least/4 {
			step = s
		}
	}
	return (least + step - 1).Truncate(step)
}

// rough rounds what was measured for people.
func rough(d time.Duration) time.Duration {
	if d >= 10*time.Second {
		return d.Round(time.Second)
	}
	return d.Round(time.Millisecond)
}

// adviseLocked has advice logged: each once, and again when twice as much is to be put in. A
// use that goes on and on grows all the time.
func (c *Connector) adviseLocked(now rotation.Now) {
	if !c.observed.tidings() {
		return
	}
	seen, _ := c.observed.all(now)
	for _, a := range c.window.advise(c.cfg.Window.kind, seen) {
		if a.least < 2*c.advised[a.part] {
			continue
		}
		c.advised[a.part] = a.least
		c.notices.log(slog.LevelWarn, "sqlrotate: the window is too small for what was observed", "part", a.part, "is", a.is, "least", a.least, "advice", a.text)
	}
}
