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
	name      string
	title     string
	about     string
	load      load
	tls       bool
	terms     terms
	needsFile bool // it is told to those who have their login in one
	tell      func(ctx context.Context, p *play) error
	end       time.Duration
	undrawn   bool     // it looks like one that is drawn
	inShort   []string // contenders who are drawn for the README as well
}

const (
	warming  = warmUp + opening // for which a load is under way before
	opening  = 3 * time.Second  // what is shown of that
	gap      = 2 * time.Second  // in which server and file disagree about a password
	refusing = 6 * time.Second
	torn     = 4 * time.Second
)

func stories() []story {
	think, saturated, long := loads()[0], loads()[1], loads()[2]
	renewing := load{
		about: "10 workers, each with a pause of 10 to 30 ms between two short queries; 10 connections, each of which is closed when it is two seconds old: somebody logs in at any time.",
		conns: 10, workers: 10, think: 20 * time.Millisecond, longest: 50 * time.Millisecond, age: 2 * time.Second,
	}
	revoked := revocation("revoked", "A new role, and the old one dropped ten seconds later", think, 10*time.Second, 5*time.Second)
	revoked.about = "As Vault's database engine does it by default: privileges revoked, role dropped, sessions left alone."
	revoked.inShort = []string{nameSQLRotate, nameService, nameFlip, nameReset}
	encrypted := revocation("tls", "A new role, and the old one dropped six seconds later: with TLS", think, 6*time.Second, 3*time.Second)
	encrypted.about, encrypted.tls, encrypted.undrawn = "TLS with sslmode=verify-full.", true, true
	return []story{
		revoked,
		encrypted,
		revocation("saturated", "A new role, and the old one dropped six seconds later: workers without pause", saturated, 6*time.Second, 3*time.Second),
		revocation("long", "A new role, and the old one dropped six seconds later: long transactions", long, 6*time.Second, 3*time.Second),
		{
			name: "in-place", title: "The password changed at the server, and in the file two seconds later",
			about: "For two seconds nobody can log in: whoever needs a connection then fails, or waits.",
			load:  renewing, terms: terms{window: sqlrotate.InPlace(), drain: 5 * time.Second}, end: 7 * time.Second,
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
			name: "refused", title: "A login that the server refuses, and a good one six seconds later",
			about: "The old role lives on.",
			load:  renewing, terms: terms{window: sqlrotate.Window{Overlap: 10 * time.Minute}, drain: 3 * time.Second}, end: refusing + 4*time.Second,
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
		{
			name: "torn", title: "A login whose file ends in the middle, and is whole four seconds later",
			about: "As if its writer had died ten bytes before the end. The old role lives on.",
			load:  renewing, terms: terms{window: sqlrotate.Window{Overlap: 10 * time.Minute}, drain: 3 * time.Second}, end: torn + 4*time.Second,
			needsFile: true,
			tell: func(ctx context.Context, p *play) error {
				next, err := p.env.newRole(ctx)
				if err != nil {
					return err
				}
				p.mark(0, "written, but for its end")
				if err := p.tear(next); err != nil {
					return err
				}
				p.until(ctx, torn)
				p.ask()
				return p.publish(next, "all of it")
			},
		},
	}
}

// revocation is the story of a role that is dropped some time after its successor was published.
func revocation(name, title string, l load, overlap, drain time.Duration) story {
	return story{
		name: name, title: title, load: l, end: overlap + 3*time.Second,
		terms: terms{window: sqlrotate.Window{Overlap: overlap, Lag: time.Second, MaxInUse: time.Second}, drain: drain},
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
	}
}
