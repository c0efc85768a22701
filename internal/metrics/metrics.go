// Package metrics says which metrics there are of connectors and their sources, and
// reads them: once for all modules that export them. Those are modules of their own, of
// which an older one may meet a newer root, so what is exported here changes as an API does.
package metrics

import (
	"slices"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// A Metric is what all series of one name have in common.
type Metric struct {
	Name   string   // in the form of Prometheus, with its unit: file_checked_timestamp_seconds
	Help   string   // a sentence or two
	Counts bool     // it only goes up; else it is a gauge
	Labels []string // sorted by name
}

// MaxLabels is how many labels a metric has at the most.
const MaxLabels = 3

// Values are those of a series' labels, in the order of Metric.Labels. They are valid UTF-8.
type Values [MaxLabels]string

//nolint:gochecknoglobals // they don't change
var (
	connections     = gauge("connections", "Open connections, by the version of the credential that they logged in with.", "connector", "version")
	oldest          = gauge("oldest_connection_timestamp_seconds", "When the oldest open connection of that version logged in.", "connector", "version")
	credentialInfo  = gauge("credential_info", "Who logs in. It is 1.", "connector", "username", "version")
	credentialSeen  = gauge("credential_seen_timestamp_seconds", "When the credential was first read; of older ones, the last.", "connector", "version")
	credentialEnd   = gauge("credential_end_timestamp_seconds", "When the credential is revoked at the earliest; of older ones, the first.", "connector", "version")
	proven          = gauge("credential_proven", "1 if a login with the current credential has succeeded.", "connector")
	refusedSince    = gauge("credential_refused_since_timestamp_seconds", "Since when the server refuses the current credential. There is none if it doesn't.", "connector")
	nextAttempt     = gauge("next_login_attempt_timestamp_seconds", "When a refused credential is tried again.", "connector")
	successorDue    = gauge("successor_due_timestamp_seconds", "When it is late for a successor of the current credential.", "connector")
	rotations       = counter("rotations_total", "Changes of the credential.", "connector")
	logins          = counter("logins_total", "Logins, by what came of them; the connector's own are included.", "connector", "outcome")
	lastLogin       = gauge("last_login_timestamp_seconds", "When a login last succeeded.", "connector")
	fallbacks       = counter("fallback_logins_total", "Logins with a predecessor of the current credential, because that is refused.", "connector")
	connectFailures = counter("connect_failures_total", "Connections that could not be made, by reason.", "connector", "reason")
	waits           = counter("connect_waits_total", "Connections that had to wait for the source, the server or another login.", "connector")
	waitTime        = counter("connect_wait_seconds_total", "How long those waited, all together.", "connector")
	waiting         = gauge("connects_waiting", "Connections that wait now.", "connector")
	closed          = counter("closed_connections_total", "Connections that were closed, by reason.", "connector", "reason")
	outlived        = counter("outlived_connections_total", "Connections that were open when their credential ended.", "connector")
	spares          = gauge("spare_connections", "Connections that are ready to replace the next ones retired.", "connector")
	held            = gauge("held_connections", "Connections outside of the pools that are open.", "connector")
	drainSince      = gauge("drain_since_timestamp_seconds", "Since when old connections have been replaced. There is none between rotations.", "connector")
	drainUntil      = gauge("drain_until_timestamp_seconds", "When the last old connection is to be replaced.", "connector")
	drainLeft       = gauge("drain_connections_left", "Old connections that are still to be replaced.", "connector")
	drains          = counter("drains_total", "Rotations after which all old connections were replaced.", "connector")
	lastDrain       = gauge("last_drain_duration_seconds", "How long the last of those took.", "connector")
	sourceRead      = gauge("source_read_timestamp_seconds", "When the connector last read its source.", "connector")
	sourceErrors    = counter("source_read_errors_total", "Reads of the source that failed.", "connector")
	readFailing     = gauge("source_read_failing_since_timestamp_seconds", "Since when reads of the source have failed. There is none if the last one didn't.", "connector")
	window          = gauge("window_seconds", "The window in force, by its parts; a part that has no limit is left out.", "connector", "part")
	observedUse     = gauge("observed_use_seconds", "The longest use of a connection in the last day or two, as far as its socket tells: to compare with the part max_in_use of the window.", "connector")
	observedLag     = gauge("observed_source_lag_seconds", "The longest that a new credential took to be read in the last day or two, or the last one did: to compare with the part lag of the window.", "connector")
	observedLogin   = gauge("observed_login_seconds", "The longest login that succeeded in the last day or two.", "connector")
	observedLate    = gauge("observed_timer_lateness_seconds", "How late a timer fired in the last day or two, at the worst.", "connector")
	timersLate      = counter("timers_late_seconds_total", "For how long timers were overdue that were late by more than 0.1 s: the process didn't run.", "connector")
	dropped         = counter("notices_dropped_total", "Log lines and callbacks that were dropped, because the logger or a callback was too slow.", "connector")
	problem         = gauge("problem", "What is wrong. It is 1, and there is none for what isn't.", "connector", "kind")
	canConnect      = gauge("can_connect", "1 if new connections can be made, as far as is known.", "connector")

	fileInfo     = gauge("file_info", "The file. It is 1.", "path", "source")
	fileChecked  = gauge("file_checked_timestamp_seconds", "When the file was last read and found good: the heartbeat.", "source")
	fileLoaded   = gauge("file_loaded_timestamp_seconds", "When the credential in use was loaded.", "source")
	fileModified = gauge("file_modified_timestamp_seconds", "When the file was last modified, as the disk has it.", "source")
	fileDiverged = gauge("file_diverged_since_timestamp_seconds", "Since when the disk has something else than what is loaded, by how. There is none if it doesn't.", "divergence", "source")
	fileReads    = counter("file_reads_total", "Looks at the file, by what came of them.", "outcome", "source")
	fileLoads    = counter("file_loads_total", "Credentials that were loaded from the file.", "source")
	fileLate     = counter("file_timers_late_seconds_total", "For how long polls of the file were overdue that were late by more than 0.1 s: the process didn't run.", "source")
	fileReplaced = gauge("file_replaced_since_timestamp_seconds", "Since when another file has been in the place of the one that is mounted, which never shows it. There is none if that isn't so.", "source")
	fileMoved    = gauge("file_elsewhere_since_timestamp_seconds", "Since when the file has named another server than at first. There is none if it doesn't.", "source")
	fileEvents   = gauge("file_events", "1 if the file system's events arrive; polling goes on without.", "source")

	sourceFailures = gauge("source_failures", "Reads that failed since the last good one.", "source")
	failingSince   = gauge("source_failing_since_timestamp_seconds", "Since when the source fails. There is none if it doesn't.", "source")
	fetched        = gauge("source_fetched_timestamp_seconds", "When the credential was last fetched.", "source")
	fetches        = counter("source_fetches_total", "Fetches so far.", "source")
	fetchingSince  = gauge("source_fetching_since_timestamp_seconds", "Since when a fetch has been under way. There is none if none is.", "source")
	nextFetch      = gauge("source_next_fetch_timestamp_seconds", "When the next fetch is due.", "source")
	hanging        = gauge("source_hanging_fetches", "Fetches that have not returned though their time is over.", "source")
	sourceEnd      = gauge("source_credential_end_timestamp_seconds", "When the source's credential ends.", "source")
	sourceRefused  = gauge("source_refused_timestamp_seconds", "When the source was last told that the server refuses its credential.", "source")
	renewed        = gauge("source_renewed_timestamp_seconds", "When the credential's lease was last renewed.", "source")
)

// LoginDuration is a histogram, and not in [All]: whoever exports it has a Trace measure it.
//
//nolint:gochecknoglobals // it doesn't change
var LoginDuration = &Metric{
	Name: "login_duration_seconds", Help: "How long logins took, by what came of them; the connector's own are included.", Labels: []string{"connector", "outcome"},
}

// LoginBuckets returns the upper bounds of the buckets of [LoginDuration], in seconds.
func LoginBuckets() []float64 { return []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30} }

// Outcomes of logins.
const (
	LoginOK      = "ok"
	LoginRefused = "refused"
	LoginFailed  = "failed"
)

// Outcome returns what came of a login.
func Outcome(l sqlrotate.LoginInfo) string {
	switch {
	case l.Refused:
		return LoginRefused
	case l.Err != nil:
		return LoginFailed
	}
	return LoginOK
}

func gauge(name, help string, labels ...string) *Metric {
	return &Metric{Name: name, Help: help, Labels: labels}
}

func counter(name, help string, labels ...string) *Metric {
	return &Metric{Name: name, Help: help, Counts: true, Labels: labels}
}

// All returns all metrics that a [Set] reads. They are the same each time.
func All() []*Metric {
	return []*Metric{
		connections, oldest, credentialInfo, credentialSeen, credentialEnd, proven, refusedSince, nextAttempt, successorDue, rotations, logins, lastLogin,
		fallbacks, connectFailures, waits, waitTime, waiting, closed, outlived, spares, held, drainSince, drainUntil, drainLeft, drains, lastDrain,
		sourceRead, sourceErrors, readFailing, window, observedUse, observedLag, observedLogin, observedLate, timersLate, dropped, problem, canConnect,
		fileInfo, fileChecked, fileLoaded, fileModified, fileDiverged, fileReads, fileLoads, fileLate, fileReplaced, fileMoved, fileEvents,
		sourceFailures, failingSince, fetched, fetches, fetchingSince, nextFetch, hanging, sourceEnd, sourceRefused, renewed,
	}
}

// samples are what is found.
type samples struct {
	found func(m *Metric, value float64, labels Values)
}

func (s *samples) set(m *Metric, value float64, labels ...string) {
	var values Values
	copy(values[:], labels)
	s.found(m, value, values)
}

// at sets a moment, unless it is zero.
func (s *samples) at(m *Metric, t time.Time, labels ...string) {
	if !t.IsZero() {
		s.set(m, float64(t.UnixMicro())/1e6, labels...)
	}
}

func (s *samples) is(m *Metric, yes bool, labels ...string) {
	value := 0.0
	if yes {
		value = 1
	}
	s.set(m, value, labels...)
}

func (s *samples) connector(name string, st sqlrotate.Stats) {
	s.versions(name, st.Versions)
	s.at(successorDue, st.SuccessorDueAt, name)
	s.at(nextAttempt, st.NextAttemptAt, name)
	s.set(rotations, float64(st.Rotations), name)
	s.set(logins, float64(st.Logins), name, LoginOK)
	s.set(logins, float64(st.Refused), name, LoginRefused)
	s.set(logins, float64(st.Failed), name, LoginFailed)
	s.at(lastLogin, st.LastLoginAt, name)
	s.set(fallbacks, float64(st.Fallbacks), name)
	for _, reason := range []sqlrotate.ConnectFailure{
		sqlrotate.FailedRefused, sqlrotate.FailedExpired, sqlrotate.FailedSource, sqlrotate.FailedCanceled, sqlrotate.FailedLogin, sqlrotate.FailedClosed,
	} {
		s.set(connectFailures, float64(st.ConnectFailures[reason]), name, string(reason))
	}
	s.set(waits, float64(st.Waits), name)
	s.set(waitTime, st.WaitTime.Seconds(), name)
	s.set(waiting, float64(st.Waiting), name)
	for _, reason := range []sqlrotate.CloseReason{
		sqlrotate.CloseOther, sqlrotate.CloseSuperseded, sqlrotate.CloseAged, sqlrotate.CloseEnding, sqlrotate.CloseExpired,
	} {
		s.set(closed, float64(st.Closed[reason]), name, string(reason))
	}
	s.set(outlived, float64(st.Outlived), name)
	s.set(spares, float64(st.Spares), name)
	s.set(held, float64(st.Held), name)
	s.at(drainSince, st.DrainSince, name)
	s.at(drainUntil, st.DrainUntil, name)
	s.set(drainLeft, float64(st.DrainLeft), name)
	s.set(drains, float64(st.Drains), name)
	if st.Drains > 0 {
		s.set(lastDrain, st.LastDrainTime.Seconds(), name)
	}
	s.at(sourceRead, st.SourceReadAt, name)
	s.set(sourceErrors, float64(st.SourceErrors), name)
	s.at(readFailing, st.SourceFailingSince, name)
	s.window(name, st.Window)
	s.observed(name, st.Observed)
	s.set(timersLate, st.TimersLate.Seconds(), name)
	s.set(dropped, float64(st.NoticesDropped), name)
}

func (s *samples) window(name string, w sqlrotate.WindowStats) {
	if w.MaxLifetime > 0 {
		s.set(window, w.MaxLifetime.Seconds(), name, "max_lifetime")
	}
	if w.Overlap > 0 { // else the others mean nothing
		s.set(window, w.Overlap.Seconds(), name, "overlap")
		s.set(window, w.Lag.Seconds(), name, "lag")
		s.set(window, w.MaxInUse.Seconds(), name, "max_in_use")
	}
	s.set(window, w.RetryTimeout.Seconds(), name, "retry_timeout")
	s.set(window, w.DrainTime.Seconds(), name, "drain_time")
}

// observed sets what was seen.
func (s *samples) observed(name string, seen sqlrotate.Observed) {
	for _, o := range []struct {
		metric *Metric
		worst  sqlrotate.Worst
	}{
		{observedUse, seen.LongestUse},
		{observedLag, seen.SourceLag},
		{observedLogin, seen.LongestLogin},
		{observedLate, seen.TimerLateness},
	} {
		if !o.worst.At.IsZero() {
			s.set(o.metric, o.worst.Took.Seconds(), name)
		}
	}
}

// versions folds all versions but the latest two into one. Each of the three has its
// number of connections, be it 0: a query for those that are left needn't do with nothing.
func (s *samples) versions(name string, all []sqlrotate.VersionStats) {
	folded := make([]sqlrotate.VersionStats, 3)
	for i, v := range all {
		f := &folded[min(i, 2)]
		f.Open += v.Open
		f.OldestAt = earliest(f.OldestAt, v.OldestAt)
		f.EndsAt = earliest(f.EndsAt, v.EndsAt)
		if f.SeenAt.Before(v.SeenAt) {
			f.SeenAt = v.SeenAt
		}
	}
	for i, label := range []string{"current", "previous", "older"} {
		v := folded[i]
		s.set(connections, float64(v.Open), name, label)
		s.at(oldest, v.OldestAt, name, label)
		s.at(credentialSeen, v.SeenAt, name, label)
		s.at(credentialEnd, v.EndsAt, name, label)
		if i < min(len(all), 2) {
			s.set(credentialInfo, 1, name, Label(all[i].Username), label)
		}
	}
	if len(all) > 0 {
		s.is(proven, all[0].Proven, name)
		s.at(refusedSince, all[0].RefusedSince, name)
	}
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (s *samples) problems(name string, problems []sqlrotate.Problem) {
	connects := true
	var kinds []sqlrotate.ProblemKind
	for _, p := range problems {
		connects = connects && p.CanConnect
		if !slices.Contains(kinds, p.Kind) { // there may be several of a kind
			kinds = append(kinds, p.Kind)
			s.set(problem, 1, name, string(p.Kind))
		}
	}
	s.is(canConnect, connects, name)
}

func (s *samples) file(name string, st sqlrotate.FileStatus) {
	s.set(fileInfo, 1, Label(st.Path), name)
	s.at(fileChecked, st.CheckedAt, name)
	s.at(fileLoaded, st.LoadedAt, name)
	s.at(fileModified, st.ModTime, name)
	if st.Divergence != sqlrotate.DivergedNot {
		s.at(fileDiverged, st.DivergedSince, string(st.Divergence), name)
	}
	s.set(fileReads, float64(st.Reads-st.FailedReads), "ok", name)
	s.set(fileReads, float64(st.FailedReads), "failed", name)
	s.set(fileLoads, float64(st.Loads), name)
	s.set(fileLate, st.TimersLate.Seconds(), name)
	s.at(fileReplaced, st.ReplacedSince, name)
	s.at(fileMoved, st.MovedSince, name)
	s.is(fileEvents, st.Events, name)
	s.fails(name, st.FailingSince, st.Failures)
}

func (s *samples) cache(name string, st sqlrotate.CacheStatus) {
	s.at(fetched, st.FetchedAt, name)
	s.set(fetches, float64(st.Fetches), name)
	s.at(fetchingSince, st.FetchingSince, name)
	s.at(nextFetch, st.NextFetchAt, name)
	s.set(hanging, float64(st.Hanging), name)
	s.at(sourceEnd, st.NotAfter, name)
	s.at(sourceRefused, st.RefusedAt, name)
	s.fails(name, st.FailingSince, st.Failures)
}

func (s *samples) source(name string, st SourceStatus) {
	s.at(fetched, st.ReadAt, name)
	s.set(fetches, float64(st.Reads), name)
	s.at(renewed, st.RenewedAt, name)
	s.at(sourceEnd, st.EndsAt, name)
	s.fails(name, st.FailingSince, st.Failures)
}

func (s *samples) fails(name string, since time.Time, failures int) {
	s.set(sourceFailures, float64(failures), name)
	s.at(failingSince, since, name)
}
