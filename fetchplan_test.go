package sqlrotate

import (
	"math"
	"testing"
	"time"
)

func TestFetchPlan(t *testing.T) {
	const never = -1
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	end := func(d time.Duration) time.Time { return at.Add(d) }
	for name, test := range map[string]struct {
		plan fetchPlan
		want time.Duration // after the last fetch
	}{
		"unknown end":                      {fetchPlan{}, defaultMaxAge},
		"unknown end, max age":             {fetchPlan{maxAge: time.Minute}, time.Minute},
		"unknown end, no max age":          {fetchPlan{maxAge: -1}, never},
		"the least max age":                {fetchPlan{maxAge: 1}, fetchPause},
		"the greatest max age":             {fetchPlan{maxAge: math.MaxInt64}, math.MaxInt64},
		"two thirds of the time":           {fetchPlan{notAfter: end(time.Hour)}, 40 * time.Minute},
		"end is known, no max age":         {fetchPlan{notAfter: end(time.Hour), maxAge: -1}, 40 * time.Minute},
		"max age is earlier by 1 ns":       {fetchPlan{notAfter: end(time.Hour), maxAge: 40*time.Minute - 1}, 40*time.Minute - 1},
		"max age is later by 1 ns":         {fetchPlan{notAfter: end(time.Hour), maxAge: 40*time.Minute + 1}, 40 * time.Minute},
		"end is near":                      {fetchPlan{notAfter: end(1500 * time.Millisecond)}, fetchPause},
		"end is a little less near":        {fetchPlan{notAfter: end(1500*time.Millisecond + 2)}, fetchPause + 2},
		"end is past":                      {fetchPlan{notAfter: end(-time.Hour)}, fetchPause},
		"end in ten years, less 1 ns":      {fetchPlan{notAfter: end(farAway - 1)}, farAway - 1 - (farAway-1)/3},
		"end in ten years":                 {fetchPlan{notAfter: end(farAway)}, defaultMaxAge},
		"end in 9999":                      {fetchPlan{notAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}, defaultMaxAge},
		"end in 9999, no max age":          {fetchPlan{notAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), maxAge: -1}, never},
		"as early as can be":               {fetchPlan{notAfter: end(time.Hour), dice: 1}, 30 * time.Minute},
		"early, and not below the pause":   {fetchPlan{maxAge: time.Second, dice: 1}, fetchPause},
		"early, the greatest max age":      {fetchPlan{maxAge: math.MaxInt64, dice: 0.5}, math.MaxInt64 - 1<<60},
		"first failure":                    {fetchPlan{failures: 1}, time.Second},
		"second failure":                   {fetchPlan{failures: 2, notAfter: end(time.Hour)}, 2 * time.Second},
		"seventh failure":                  {fetchPlan{failures: 7}, unaskedMax},
		"many failures":                    {fetchPlan{failures: math.MaxInt}, unaskedMax},
		"many failures, early":             {fetchPlan{failures: 100, dice: 1}, unaskedMax * 3 / 4},
		"asked":                            {fetchPlan{asked: true}, fetchPause},
		"asked, and the plan is no later":  {fetchPlan{asked: true, maxAge: 1}, fetchPause},
		"asked, no max age":                {fetchPlan{asked: true, maxAge: -1}, fetchPause},
		"asked after the third failure":    {fetchPlan{asked: true, failures: 3}, 4 * time.Second},
		"asked after many failures":        {fetchPlan{asked: true, failures: 100}, askedMax},
		"asked, the same user once":        {fetchPlan{asked: true, reports: reports{same: 1}}, time.Second},
		"asked, the same user four times":  {fetchPlan{asked: true, reports: reports{same: 4}}, 8 * time.Second},
		"asked, the same user many times":  {fetchPlan{asked: true, reports: reports{same: 100}}, askedMax},
		"asked, another user five times":   {fetchPlan{asked: true, reports: reports{renamed: true, remade: 5}}, 16 * time.Second},
		"asked, another user many times":   {fetchPlan{asked: true, maxAge: -1, reports: reports{renamed: true, remade: 100}}, remadeMax},
		"another user, the plan is sooner": {fetchPlan{asked: true, reports: reports{renamed: true, remade: 100}}, defaultMaxAge},
		"nobody asks":                      {fetchPlan{reports: reports{renamed: true, remade: 5}}, defaultMaxAge},
	} {
		test.plan.fetched = at
		got := test.plan.next()
		switch {
		case test.want == never:
			if !got.IsZero() {
				t.Errorf("%s: %v, want never", name, got.Sub(at))
			}
		case got.Sub(at) != test.want:
			t.Errorf("%s: %v, want %v", name, got.Sub(at), test.want)
		}
	}
}

// Whatever has come of fetches, two of them are a second apart.
func TestFetchPlanHasAFloor(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, dice := range []float64{0, 0.5, 1} {
		for _, maxAge := range []time.Duration{-1, 0, 1, time.Second - 1, math.MaxInt64} {
			for _, left := range []time.Duration{math.MinInt64, -1, 1, time.Second, math.MaxInt64} {
				for _, n := range []int{0, 1, 2, 1000} {
					for _, asked := range []bool{false, true} {
						p := fetchPlan{maxAge: maxAge, dice: dice, fetched: at, notAfter: at.Add(left), failures: n, asked: asked, reports: reports{same: n}}
						if next := p.next(); !next.IsZero() && next.Before(at.Add(fetchPause)) {
							t.Errorf("%+v: %v", p, next.Sub(at))
						}
					}
				}
			}
		}
	}
}

func TestReportsAreForgottenAfterSilence(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	full := reports{heard: at, since: at.Add(-time.Hour), same: 5, remade: 6, refreshes: 7}
	for _, test := range []struct {
		silence           time.Duration
		same, rest        int
		forgetsTheirBegin bool
	}{
		{0, 5, 6, false},
		{askedMax - 1, 5, 6, false},
		{askedMax, 0, 6, false},
		{refusalTold - 1, 0, 6, false},
		{refusalTold, 0, 6, true},
		{remadeMax - 1, 0, 6, true},
		{remadeMax, 0, 0, true},
	} {
		r, now := full, at.Add(test.silence)
		r.hear(now)
		want := reports{heard: now, since: full.since, same: test.same, remade: test.rest}
		if test.rest > 0 {
			want.refreshes = full.refreshes
		}
		if test.forgetsTheirBegin {
			want.since = now
		}
		if r != want {
			t.Errorf("after %v: %+v, want %+v", test.silence, r, want)
		}
	}
}

func TestReportsMakeARefresherWait(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for refreshes, pause := range map[int]time.Duration{
		0: time.Minute, 1: time.Minute, 2: 2 * time.Minute, 4: 8 * time.Minute, 5: 15 * time.Minute, 100: 15 * time.Minute,
	} {
		r := reports{refreshes: refreshes, refreshed: at}
		if r.mayRefresh(at.Add(pause-1)) || !r.mayRefresh(at.Add(pause)) {
			t.Errorf("after %d: it isn't %v", refreshes, pause)
		}
	}
	if !(reports{}).mayRefresh(at) {
		t.Error("the first one has to wait")
	}
}
