// The stories: what may happen to a login while an application uses it.

package main

import (
	"context"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// story is what happens to a login while a load is under way. Times count from the
// moment when the new login is published, or would be.
type story struct {
	name  string
	title string
	about string
	load  load
	terms terms
	tell  func(ctx context.Context, p *play) error
	lead  time.Duration // for which the load is under way before
	end   time.Duration
}

const (
	overlap  = 10 * time.Second
	opening  = 3 * time.Second // what is shown of the time before
	gap      = 2 * time.Second // in which server and file disagree about a password
	refusing = 8 * time.Second
)

func stories() []story {
	busy := loads()[0]
	renewing := load{
		about: "10 workers, each with a pause of 10 to 30 ms between two short queries; 10 connections, each of which is closed when it is two seconds old: somebody logs in at any time.",
		conns: 10, workers: 10, think: 20 * time.Millisecond, longest: 50 * time.Millisecond, age: 2 * time.Second,
	}
	brief := terms{window: sqlrotate.Window{Overlap: overlap, Lag: time.Second, MaxInUse: time.Second}, drain: 5 * time.Second}
	return []story{
		{
			name: "revoked", title: "A new role, and the old one dropped ten seconds later",
			about: "As Vault's database engine does it by default: privileges revoked, role dropped, sessions left alone.",
			load:  busy, terms: brief, lead: warmUp + opening, end: overlap + 5*time.Second,
			tell: func(ctx context.Context, p *play) error {
				next, err := p.env.newRole(ctx)
				if err != nil {
					return err
				}
				if err := p.publish(next, "new login published"); err != nil {
					return err
				}
				p.until(ctx, overlap)
				p.mark(overlap, "old role dropped")
				return p.env.server.RevokeRole(ctx, p.first.user)
			},
		},
		{
			name: "in-place", title: "The password changed at the server, and in the file two seconds later",
			load: renewing, terms: terms{window: sqlrotate.InPlace(), drain: 5 * time.Second}, lead: warmUp + opening, end: 8 * time.Second,
			tell: func(ctx context.Context, p *play) error {
				next := newPassword(p.first)
				p.mark(0, "password changed")
				if err := p.env.server.AlterPassword(ctx, next.user, next.password); err != nil {
					return err
				}
				p.until(ctx, gap)
				return p.publish(next, "and published")
			},
		},
		{
			name: "refused", title: "A login that the server refuses, and a good one eight seconds later",
			about: "The old role lives on.",
			load:  renewing, terms: terms{window: sqlrotate.Window{Overlap: 10 * time.Minute}, drain: 5 * time.Second}, lead: warmUp + opening, end: refusing + 5*time.Second,
			tell: func(ctx context.Context, p *play) error {
				next, err := p.env.newRole(ctx)
				if err != nil {
					return err
				}
				if err := p.publish(newPassword(next), "published a login that is refused"); err != nil {
					return err
				}
				p.until(ctx, refusing)
				return p.publish(next, "a good one")
			},
		},
	}
}
