// fetchPlan: when a cached source fetches next. Pure: every method takes the time as
// a parameter.

package sqlrotate

import "time"

const (
	defaultMaxAge = 5 * time.Minute

	// fetchPause lies between the end of a fetch and the next one at the least.
	fetchPause = time.Second

	// What brings no progress is repeated after fetchPause, then twice that, and so on:
	// up to askedMax while somebody waits for another credential, up to unaskedMax
	// while a fetch fails and nobody does, and up to remadeMax where each fetch gives
	// another user, which is then refused as well. Such a source may make a role each
	// time, and a role may need minutes to reach the server that is logged in to.
	askedMax   = 10 * time.Second
	unaskedMax = time.Minute
	remadeMax  = 15 * time.Minute

	// refreshPause lies between two calls of a Refresher's Refresh at the least, then
	// twice that, and so on up to remadeMax.
	refreshPause = time.Minute

	// An end further away than farAway means "never".
	farAway = 10 * 365 * 24 * time.Hour
)

// fetchPlan is what the time of the next fetch follows from.
type fetchPlan struct {
	maxAge   time.Duration // CacheOptions.MaxAge
	dice     float64       // in [0, 1): by how much to be early, drawn at each fetch
	fetched  time.Time     // when the last fetch ended; zero before that
	notAfter time.Time     // of the credential at hand; zero: unknown, or there is none
	failures int           // fetches that failed, in a row
	asked    bool          // somebody needs another credential than the one at hand
	reports  reports
}

// next returns when to fetch. Zero means not until somebody asks.
func (p fetchPlan) next() time.Time {
	regular := p.regular()
	if !p.asked {
		return regular
	}
	pause := max(backoff(p.failures, fetchPause, askedMax), p.reports.pause())
	return earliest(regular, p.fetched.Add(pause))
}

// regular returns when to fetch if nobody asks: up to a quarter of the time sooner than
// it must be, so that processes that were started together don't fetch together.
func (p fetchPlan) regular() time.Time {
	var wait time.Duration
	switch {
	case p.failures > 0:
		wait = backoff(p.failures, fetchPause, unaskedMax)
	case p.ends():
		left := p.notAfter.Sub(p.fetched)
		wait = left - left/3
		if p.maxAge > 0 {
			wait = min(wait, p.maxAge)
		}
	case p.maxAge < 0:
		return time.Time{}
	default:
		wait = orDefault(p.maxAge, defaultMaxAge)
	}
	early := time.Duration(p.dice * float64(wait/4))
	return p.fetched.Add(max(fetchPause, wait-early))
}

// ends reports whether the credential at hand has an end that is worth planning for.
func (p fetchPlan) ends() bool {
	return !p.notAfter.IsZero() && p.notAfter.Sub(p.fetched) < farAway
}

// reports is what came of the reports that the credential at hand is refused.
// Each kind of it is forgotten after a silence as long as the longest pause it causes.
type reports struct {
	heard     time.Time // the last report
	since     time.Time // the first one of those that are worth a word to operators
	renamed   bool      // the last fetch for one gave another user
	same      int       // fetches that gave the same user, in a row
	remade    int       // fetches that gave another one
	refreshes int       // calls of Refresh that gave a credential
	refreshed time.Time // the last call of Refresh
}

// hear notes a report.
func (r *reports) hear(now time.Time) {
	silence := now.Sub(r.heard)
	if silence >= refusalTold {
		r.since = now
	}
	if silence >= askedMax {
		r.same = 0
	}
	if silence >= remadeMax {
		r.remade, r.refreshes = 0, 0
	}
	r.heard = now
}

// answered notes that the fetch for a report, by Refresh or not, gave another user or
// the same one.
func (r *reports) answered(anotherUser, refreshed bool) {
	if refreshed {
		r.refreshes++
	}
	r.renamed = anotherUser
	if anotherUser {
		r.remade++
		r.same = 0
	} else {
		r.same++
	}
}

// pause returns how long after the last fetch the next one for a report may begin.
func (r reports) pause() time.Duration {
	if r.renamed {
		return backoff(r.remade, fetchPause, remadeMax)
	}
	return backoff(r.same, fetchPause, askedMax)
}

// mayRefresh reports whether a Refresher may be told again.
func (r reports) mayRefresh(now time.Time) bool {
	return r.refreshed.IsZero() || now.Sub(r.refreshed) >= backoff(r.refreshes, refreshPause, remadeMax)
}
