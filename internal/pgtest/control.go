// What a test can do to a server that is its own.

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/testserver"
)

// own takes a turn at the server process, if it is ours, and runs f.
func (s *Server) own(f func(*process) error) error {
	if s.proc == nil {
		return ErrNotOurs
	}
	s.proc.turn.Lock()
	defer s.proc.turn.Unlock()
	return f(s.proc)
}

// Stop ends the server, if it runs, and returns when it has ended. One that does
// not end as asked within ten seconds is ended more firmly.
func (s *Server) Stop(mode StopMode) error {
	return s.own(func(p *process) error { return p.stop(mode) })
}

// Start starts a stopped server on the same port.
func (s *Server) Start(ctx context.Context) error {
	return s.own(func(p *process) error { return p.start(ctx) })
}

// Restart stops the server and starts it again.
func (s *Server) Restart(ctx context.Context, mode StopMode) error {
	return s.own(func(p *process) error {
		if err := p.stop(mode); err != nil {
			return err
		}
		return p.start(ctx)
	})
}

// Pause freezes the server and all its sessions (SIGSTOP): connections to it are
// accepted by the kernel, and nothing is ever answered. It works on Linux only.
func (s *Server) Pause(ctx context.Context) error {
	return s.own(func(p *process) error { return p.server.Pause(ctx) })
}

// Resume ends a Pause.
func (s *Server) Resume() error {
	return s.own(func(p *process) error { return p.server.Resume() })
}

// Config changes a setting of postgresql.conf. A running server has it when
// Config returns, if it can be changed there; others wait for a restart. An error
// says that the server does not take the value, and leaves the setting as it was.
func (s *Server) Config(ctx context.Context, key, value string) error {
	return s.own(func(p *process) error {
		before, had := p.settings[key]
		p.settings[key] = value
		err := s.reload(ctx, p)
		if err == nil {
			return nil
		}
		if p.settings[key] = before; !had {
			delete(p.settings, key)
		}
		return errors.Join(err, s.reload(ctx, p))
	})
}

// WriteHBA replaces the lines of pg_hba.conf, after a first one that always lets
// Admin in. The default, also for none, is scram-sha-256 for every role. When it
// returns, new logins go by them.
func (s *Server) WriteHBA(ctx context.Context, lines ...string) error {
	return s.own(func(p *process) error {
		before := p.hba
		p.hba = lines
		err := s.reload(ctx, p)
		if err == nil {
			return nil
		}
		p.hba = before
		return errors.Join(err, s.reload(ctx, p))
	})
}

// reload makes a running server read its files again, if it can read them.
func (s *Server) reload(ctx context.Context, p *process) error {
	if err := p.writeConfig(ctx); err != nil || !p.server.Running() {
		return err
	}
	var reason string
	err := s.admin.QueryRowContext(ctx, "SELECT coalesce(min(error), '') FROM pg_hba_file_rules").Scan(&reason)
	if err != nil {
		return fmt.Errorf("pgtest: check pg_hba.conf: %w", err)
	}
	if reason != "" {
		return fmt.Errorf("pgtest: the server refuses pg_hba.conf: %s", reason)
	}
	var before time.Time
	if err := s.admin.QueryRowContext(ctx, "SELECT statement_timestamp() FROM pg_reload_conf()").Scan(&before); err != nil {
		return fmt.Errorf("pgtest: reload: %w", err)
	}
	// A new session has the files that the postmaster had read when it came.
	return testserver.Poll(ctx, stopTimeout, func() (bool, error) {
		fresh, err := openAdmin(s.cfg)
		if err != nil {
			return false, err
		}
		defer fresh.Close()
		var loaded time.Time
		if err := fresh.QueryRowContext(ctx, "SELECT pg_conf_load_time()").Scan(&loaded); err != nil {
			return false, fmt.Errorf("pgtest: reload: %w", err)
		}
		return loaded.After(before), nil
	})
}
