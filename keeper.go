// The keeper: the connector's one goroutine. It carries out the drain on the
// managed pools, proves new credentials and logs standbys in. Whatever can take long
// it starts and doesn't await.

package sqlrotate

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// unlimited is the lifetime of connections that don't age. Not 0: the pool's
	// cleaner runs only while there is a limit, and the drain needs it.
	unlimited = time.Duration(math.MaxInt64 / 4)

	// drift is how far the line moves while it is held, about: the neighbours of the
	// connection that is awaited may go in its place.
	drift = 10 * time.Millisecond

	// cleanerGap is how often the pools' cleaners are woken while the line is held: a
	// connection that misses one round, because database/sql stamped it later than
	// its neighbours, has another one.
	cleanerGap = 50 * time.Millisecond

	// A source that is no Notifier is read as often as Window.Lag says, within these
	// bounds.
	minWatch = time.Second
	maxWatch = 5 * time.Second

	// The server is asked whether an old role still lives checkMin after the last
	// time, then twice that, up to checkMax.
	checkMin = 250 * time.Millisecond
	checkMax = 5 * time.Second
)

// keeperState is the keeper's memory. It is guarded by Connector.mu.
type keeperState struct {
	drain     drainState
	line      time.Time
	moved     time.Time
	retired   time.Time // when a connection of the pools was closed last
	held      bool      // the pools' lifetime is held to the line
	woken     time.Time // when the pools' cleaners were last woken for that
	aging     time.Duration
	refill    bool          // connections were retired lately: keep a standby while it is taken
	owed      int           // connections that were retired and that the pool has not replaced
	login     bool          // a login of the keeper's own is under way
	failures  int           // of those that were to be kept: in a row, and not because they were refused
	retryAt   time.Time     // none before this, after a failure or while a standby makes room
	readAt    time.Time     // when the source was read last in the background
	readAsked bool          // it has told of a change since
	checkAt   time.Time     // when an old role is next asked after
	checkWait time.Duration // and how long after that
	peak      int           // most connections in the pool since the drain began
	room      int           // how many standbys there may be
	conns     []pooled      // what decideLocked last knew of the pool; kept for its memory
}

// Manage lets c set the lifetime of db's connections. It is for a pool that was not
// opened with [OpenDB], but for example with sql.OpenDB over a connector that wraps c.
// From then on db.SetConnMaxLifetime is c's to call; all other settings of db stay the
// caller's. More than one pool may be managed: they are drained as one, and when one
// is closed, so is c. After [Connector.Close] Manage does nothing. (With a
// SetConnMaxIdleTime shorter than the age of its connections, database/sql's cleaner
// runs less promptly: cold connections then go when they are touched, or with their
// idle time.)
func (c *Connector) Manage(db *sql.DB) {
	if c.start() != nil {
		return
	}
	c.mu.Lock()
	base := c.baseLifetimeLocked()
	if !slices.Contains(c.dbs, db) {
		c.dbs = append(c.dbs, db)
	}
	c.mu.Unlock()
	db.SetConnMaxLifetime(base)
	c.poke()
}

// baseLifetimeLocked is the lifetime of connections while none is singled out: up
// to a tenth less than the window's, so that processes that were started together
// do not renew their connections together.
func (c *Connector) baseLifetimeLocked() time.Duration {
	if c.maxLifetime == 0 {
		return unlimited
	}
	if c.keeper.aging == 0 {
		c.keeper.aging = c.maxLifetime - rand.N(c.maxLifetime/10+1)
	}
	return c.keeper.aging
}

// keep runs until Close.
func (c *Connector) keep() {
	if n, ok := c.cfg.Source.(Notifier); ok {
		c.wg.Go(func() { c.watch(n) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		if d := c.step(time.Now()); d > 0 {
			timer.Reset(d)
		} else {
			timer.Stop()
		}
	}
}

// step does what is to be done now and returns how soon to look again at the
// latest, or 0 if only an event can change anything.
func (c *Connector) step(now time.Time) time.Duration {
	limit := c.poolLimit()
	c.mu.Lock()
	c.versions = prune(c.versions, now)
	wakeStandby, stale := c.expireStandbysLocked(limit, now)
	d := c.decideLocked(now)
	line, held := c.keeper.line, c.keeper.held
	c.keeper.line, c.keeper.moved = c.moveLineLocked(d.line, now)
	life, refresh := c.lifetimeLocked(d.hold, now)
	base, hold := c.baseLifetimeLocked(), refresh > 0
	release := held && !hold
	clean := hold && (!held || !c.keeper.line.Equal(line) || now.Sub(c.keeper.woken) >= cleanerGap)
	if clean {
		c.keeper.woken = now
	}
	c.keeper.held = hold
	dbs := c.dbs
	var wakeLogin time.Time
	if len(stale) == 0 { // or else when they are closed
		wakeLogin = c.startLoginLocked(d.standby, now)
	}
	wakeRead := c.readDueLocked(now)
	ending, end, wakeAlarm := c.endingLocked(now)
	c.mu.Unlock()

	for _, db := range dbs {
		if clean || release {
			setLifetime(db, base) // what follows shortens it, which wakes the pool's cleaner
		}
		if hold {
			setLifetime(db, life)
		}
	}
	for _, s := range stale {
		c.discard(s)
	}
	if len(stale) > 0 {
		c.poke()
	}
	if ending != nil {
		when := "ends soon"
		if past(end, now) {
			when = "has ended"
		}
		c.log.Warn("sqlrotate: the credential "+when+" and no successor has come", "version", ending.label(), "user", ending.cred.Username, "end", end)
	}
	if !wakeRead.IsZero() && !now.Before(wakeRead) {
		wakeRead = c.readInBackground(now)
	}

	wakeHold := time.Time{}
	if hold {
		wakeHold = now.Add(refresh)
	}
	next := earliest(d.wake, wakeStandby, wakeLogin, wakeRead, wakeAlarm, wakeHold)
	if next.IsZero() {
		return 0
	}
	return max(next.Sub(now), 1)
}

// setLifetime sets the lifetime of db's connections, unless db is closed: then
// database/sql would start a cleaner that sleeps for as long, or, if the lifetime is
// shortened before the cleaner has noticed, panic with a send on its closed channel
// (see DB.Close and DB.SetConnMaxLifetime). A Close between the question and the
// call can't be seen, so lifetimes are shortened no more often than need be.
func setLifetime(db *sql.DB, d time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// An open pool says that the context is done, and does nothing else.
	if err := db.PingContext(ctx); errors.Is(err, context.Canceled) {
		db.SetConnMaxLifetime(d)
	}
}

// endingLocked returns the current version and its end if it is time to say that it
// ends, or else when that will be.
func (c *Connector) endingLocked(now time.Time) (v *version, end, wake time.Time) {
	v = c.currentLocked()
	if v == nil || v.warned || v.deadline().IsZero() {
		return nil, end, wake
	}
	if alarm := c.alarm(v); !past(alarm, now) {
		return nil, end, alarm
	}
	v.warned = true
	return v, v.deadline(), wake
}

// outdatedLocked reports whether a newer version than v has proven itself and is
// not being refused.
func (c *Connector) outdatedLocked(v *version, now time.Time) bool {
	for _, newer := range c.versions {
		if newer == v {
			return false
		}
		if newer.gate.proven && newer.gate.refusals == 0 && !newer.ended(now) {
			return true
		}
	}
	return true
}

// decideLocked asks the plan what to do about the pools' connections.
func (c *Connector) decideLocked(now time.Time) decision {
	k := &c.keeper
	if len(c.dbs) == 0 {
		return decision{line: k.line}
	}
	k.conns = k.conns[:0]
	eager := false
	for _, s := range c.pool {
		outdated := c.outdatedLocked(s.version, now)
		by, last := c.mustGoBy(s, outdated)
		k.conns = append(k.conns, pooled{
			born:  s.born,
			by:    by,
			last:  last,
			eager: outdated,
			dead:  outdated && s.version.dead,
		})
		eager = eager || outdated
	}
	switch {
	case !eager:
		k.drain = drainState{}
	case k.drain.from.IsZero():
		k.drain = drainState{from: now.Add(rand.N(c.drainTime/4 + 1)), to: now.Add(c.drainTime)}
		k.refill = true
	}
	return plan{
		now:     now,
		line:    k.line,
		moved:   k.moved,
		retired: k.retired,
		standby: len(c.standbys) > 0,
		drain:   k.drain,
		spread:  c.spreadLocked(),
		conns:   k.conns,
	}.decide()
}

// mustGoBy returns when a connection must have been told to go: at the end of its
// lifetime, or early enough before the end of its credential for it to come back
// first. The last connections of a credential without a successor are those that were
// born when others went for its sake; they stay until the end.
func (c *Connector) mustGoBy(s *session, outdated bool) (by time.Time, last bool) {
	var aged time.Time
	if c.maxLifetime > 0 {
		aged = s.born.Add(c.baseLifetimeLocked())
	}
	end := s.version.deadline()
	if end.IsZero() || !outdated && !s.version.superseded.IsZero() {
		return aged, false
	}
	ending := end.Add(-c.cfg.Window.checkout())
	from := ending
	if !outdated {
		from = from.Add(-min(c.spreadLocked(), time.Duration(len(c.pool)+1)*lazyGap))
	}
	if s.born.Before(from) {
		return earliest(aged, ending), false
	}
	return earliest(aged, end), !outdated
}

// reasonLocked says why a connection is retired now.
func (c *Connector) reasonLocked(s *session, now time.Time) reason {
	if c.outdatedLocked(s.version, now) {
		return reasonSuperseded
	}
	by, _ := c.mustGoBy(s, false)
	if c.maxLifetime > 0 && by.Equal(s.born.Add(c.baseLifetimeLocked())) {
		return reasonAged
	}
	return reasonEnding
}

// spreadLocked returns over how much time retirements without a rotation may be spread.
func (c *Connector) spreadLocked() time.Duration { return c.baseLifetimeLocked() / 5 }

// moveLineLocked moves the line and notes why the connections that it passes are
// retired.
func (c *Connector) moveLineLocked(line, now time.Time) (newLine, moved time.Time) {
	if line.Equal(c.keeper.line) {
		return c.keeper.line, c.keeper.moved
	}
	for _, s := range c.pool {
		if s.born.After(line) {
			break
		}
		if s.due != "" {
			continue
		}
		s.due, s.dueAt = c.reasonLocked(s, now), now
	}
	c.keeper.refill = true
	return line, now
}

// lifetimeLocked returns the lifetime to set on the pools, and how soon to do so
// again: 0 if the line is not held.
func (c *Connector) lifetimeLocked(hold bool, now time.Time) (d, refresh time.Duration) {
	base := c.baseLifetimeLocked()
	told := 0
	for told < len(c.pool) && !c.pool[told].born.After(c.keeper.line) {
		told++
	}
	for i := told - 1; i >= 0; i-- {
		if s := c.pool[i]; s.blind() && now.Sub(s.dueAt) > c.cfg.Window.checkout()+slack {
			c.removeLocked(s) // its end can't be seen: by now it has come
			told--
		}
	}
	if told == 0 || !hold || len(c.dbs) == 0 {
		return base, 0
	}
	var next time.Time
	if told < len(c.pool) {
		next = c.pool[told].born
	}
	return lifetime(now, c.keeper.line, next, base)
}

// startLoginLocked starts the keeper's own login, if one is called for: to prove
// a new credential, to ask whether an old role still lives, or for a standby, in this
// order. It returns when to look again.
func (c *Connector) startLoginLocked(standby bool, now time.Time) (wake time.Time) {
	k := &c.keeper
	if k.login || c.closed || len(c.dbs) == 0 || len(c.versions) == 0 {
		return time.Time{} // the end of the login wakes the keeper
	}
	crowded := len(c.standbys) > 0 && len(c.sessions) > k.peak // until one makes room
	current := c.versions[0]
	deserted := current.gate.deserted() && c.waiting > 0 && !current.ended(now)
	if ready := !crowded && !now.Before(k.retryAt); ready && (deserted || c.unprovenLocked(now)) {
		ok, wait := current.gate.admit(now)
		if ok {
			c.loginInBackgroundLocked(current, true)
			return time.Time{}
		}
		wake = now.Add(wait)
	}
	if old := c.suspectLocked(now); old != nil {
		if k.checkAt.Sub(now) > checkPause {
			wake = earliest(wake, k.checkAt) // not yet
		} else if now.Before(k.checkAt) {
			return earliest(wake, k.checkAt)
		} else if crowded {
			wake = earliest(wake, now.Add(checkPause))
		} else if ok, wait := old.gate.admit(now); ok {
			k.checkAt, k.checkWait = now.Add(k.checkWait), min(2*k.checkWait, checkMax)
			c.loginInBackgroundLocked(old, false)
			return time.Time{}
		} else {
			wake = earliest(wake, now.Add(wait))
		}
	}
	if now.Before(k.retryAt) {
		return earliest(wake, k.retryAt) // a server that is down or full is left alone
	}
	if at := c.wantStandbyLocked(standby, now); at.IsZero() || now.Before(at) {
		return earliest(wake, at)
	}
	for _, v := range c.versions {
		if !c.usable(v, now) || v.gate.refusals > 0 {
			continue
		}
		ok, wait := v.gate.admit(now)
		if ok {
			c.loginInBackgroundLocked(v, true)
			return time.Time{}
		}
		return earliest(wake, now.Add(wait))
	}
	return wake
}

// unprovenLocked reports whether the current version has to prove itself to the keeper,
// for the first time or because it is refused.
func (c *Connector) unprovenLocked(now time.Time) bool {
	v := c.currentLocked()
	if v == nil || v.ended(now) || len(c.dbs) == 0 {
		return false
	}
	return v.gate.refusals > 0 || !v.gate.proven && len(c.versions) > 1
}

// suspectLocked returns an old version with open connections that the server may
// have revoked before its time, because its user name is another than the current
// one's: of several, the one that logged in longest ago. Such a role's sessions fail
// every query but no ping, so the way to know is to log in.
func (c *Connector) suspectLocked(now time.Time) (suspect *version) {
	for _, v := range c.versions[min(1, len(c.versions)):] {
		if v.open == 0 || v.gate.refusals > 0 || !c.usable(v, now) || v.cred.Username == c.versions[0].cred.Username {
			continue
		}
		if suspect == nil || v.gate.admitted.Before(suspect.gate.admitted) {
			suspect = v
		}
	}
	return suspect
}

// loginInBackgroundLocked logs in with v, which has been let through its gate, and
// keeps the session as the standby or closes it.
func (c *Connector) loginInBackgroundLocked(v *version, keep bool) {
	c.keeper.login = true
	current := c.currentLocked()
	c.wg.Go(func() {
		if keep && c.sourceMovedOn(current) {
			c.mu.Lock()
			c.keeper.login = false
			v.gate.withdrawn()
			c.mu.Unlock()
			c.poke() // for a login with its successor
			return
		}
		s, err := c.open(c.ctx, v, keep)
		if err == nil && !s.standby {
			c.discard(s) // before another login begins
		}
		var refused *refusal
		c.mu.Lock()
		c.keeper.login = false
		switch {
		case !keep:
		case err == nil:
			c.keeper.failures = 0
		case !errors.As(err, &refused): // else the version's gate sees to it
			c.keeper.failures++
			c.keeper.retryAt = time.Now().Add(backoff(c.keeper.failures, retryMin, retryMax))
		}
		c.mu.Unlock()
		c.poke()
	})
}

// sourceMovedOn reads the source, as is done for each login unless it gives another one
// each time, and reports whether v is no longer the latest version.
func (c *Connector) sourceMovedOn(v *version) bool {
	c.mu.Lock()
	resting := time.Now().Before(c.source.restUntil)
	c.mu.Unlock()
	if !resting {
		_ = c.read(c.ctx) // what comes of it is noted where it belongs
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.currentLocked() != v
}

// removeLocked forgets a session that is over. It reports false if it had been
// forgotten before, or had not logged in.
func (c *Connector) removeLocked(s *session) bool {
	if _, ok := c.sessions[s]; !ok || s.ready.IsZero() {
		delete(c.sessions, s)
		return false
	}
	delete(c.sessions, s)
	s.version.open--
	c.armLocked(s.version)
	if i := slices.Index(c.standbys, s); i >= 0 {
		c.standbys = slices.Delete(c.standbys, i, i+1)
	}
	if i := slices.Index(c.pool, s); i >= 0 {
		now := time.Now()
		c.pool = slices.Delete(c.pool, i, i+1)
		c.keeper.retired = now
		neighbour := !s.born.After(c.keeper.line.Add(drift)) // of one that was told
		if s.due == "" && (neighbour || c.outdatedLocked(s.version, now)) {
			s.due = c.reasonLocked(s, now)
		}
		if s.due != "" {
			c.keeper.owed++
		}
	}
	c.counts.closed(s)
	return true
}
