// A standby: a second server that follows the first.

package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
)

// Standby starts a hot standby of the server, on a port of its own. It has the same roles
// and the same database, which follow, and takes queries that only read. It is the
// caller's to close.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	var p *process
	err := s.own(func(primary *process) (err error) {
		p, err = follow(ctx, primary)
		return err
	})
	if err != nil {
		return nil, err
	}
	standby := &Server{proc: p, cfg: p.login()}
	standby.cfg.Database = s.cfg.Database
	if standby.admin, err = openAdmin(standby.cfg); err != nil {
		return nil, errors.Join(err, standby.Close()) //nolint:contextcheck // it is closed whatever became of ctx
	}
	return standby, nil
}

// follow copies a running server's cluster and starts a standby on it.
func follow(ctx context.Context, primary *process) (_ *process, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p := &process{bin: primary.bin, owner: primary.owner, password: primary.password, settings: maps.Clone(primary.settings), hba: primary.hba}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if err := p.makeDir(ctx); err != nil {
		return nil, err
	}
	cmd := p.command(ctx, "pg_basebackup", "--no-sync", "--checkpoint=fast", "--write-recovery-conf", "-D", p.data(),
		"-h", "127.0.0.1", "-p", fmt.Sprint(primary.port), "-U", superuser)
	cmd.Env = append(cmd.Env, "PGPASSWORD="+p.password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pgtest: pg_basebackup: %w: %s", err, bytes.TrimSpace(out))
	}
	return p, p.startOnFreePort(ctx)
}
