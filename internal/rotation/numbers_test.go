package rotation

import (
	"testing"
	"time"
)

// What docs/design.md and the comments beside these promise. Other tests go by the names.
func TestNumbersThatArePromised(t *testing.T) {
	for _, tt := range []struct {
		name      string
		got, want time.Duration
	}{
		{"a success lets others go ahead for", proofTTL, sec},
		{"those who wait for one that went ahead do so for", patience, sec},
		{"callers wait for what is being closed for", closePatience, 50 * ms},
		{"and if the server is full for", fullPatience, sec},
		{"in which it is tried again every", fullRetry, 50 * ms},
		{"a spare is handed out without a question for", spareTrust, sec},
		{"an old role is asked after again, at the earliest after", oldMin, 250 * ms},
		{"at the latest after", oldMax, 10 * time.Minute},
		{"and all of them together after", oldAll, 5 * sec},
		{"an unused pool is asked after", idleMax, 10 * time.Minute},
		{"whether it is used is looked at every", lookEvery, 75 * sec},
		{"a question counts as unanswered after", askPatience, 30 * sec},
		{"connections are renewed a pause apart, at the most", agingGap, sec},
		{"a login for it begins before a retirement by", spareLead, sec},
		{"an idle connection goes within", exposure, 5 * ms},
		{"a lifetime line moves by", drift, 10 * ms},
		{"the wall clock is looked at every", wallEvery, sec},
		{"a refused credential is tried again after", retryMin, sec / 2},
		{"and at the latest after", retryMax, 10 * sec},
		{"after an unclear refusal", unclearMin, sec},
		{"or", unclearMax, 2 * sec},
		{"new versions wait for a failing server, at the most", churnMax, sec},
		{"a refusal is remembered for", memory, time.Minute},
		{"a session whose end can't be seen has gone, after a checkout and", untrackedSlack, 100 * ms},
		{"while callers wait the source is read every", waitMin, 250 * ms},
		{"or, if they do for long", waitMax, 5 * sec},
		{"a source that doesn't tell is read, at the most, every", watchMin, sec},
		{"at the least", watchMax, 5 * sec},
		{"one that never repeats itself every", unsettledMax, 10 * sec},
		{"a spare that nobody takes is kept for", maxSpareTTL, time.Minute},
		{"a step of the backoff wears off in steps", wearOff, 4},
	} {
		if tt.got != tt.want {
			t.Errorf("%s %v, want %v", tt.name, tt.got, tt.want)
		}
	}
	for _, tt := range []struct {
		name      string
		got, want int
	}{
		{"logins given up in a row before the connector makes one", maxAbandoned, 2},
		{"logins ahead at once", maxAhead, 8},
		{"reads in a row that find another login are too many", unsettledAt, 4},
		{"versions without sessions are remembered", maxVersions, 16},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, tt.got, tt.want)
		}
	}
}
