// What check goes by. Nothing in it is secret.

package main

import (
	"io/fs"
	"time"

	"github.com/sqlrotate/sqlrotate"
	"github.com/sqlrotate/sqlrotate/internal/disk"
)

// facts are what was found out, for judge.
type facts struct {
	now    time.Time
	file   fileFacts
	dsn    dsnFacts
	server serverFacts
	window windowFacts
	pool   int
}

// fileFacts are what is known of a credential file.
type fileFacts struct {
	path    string
	err     error  // why there is no credential
	nearest string // if nothing is there: the nearest directory above that is
	isDir   bool   // it is a directory
	parsed  parsed // how it is read
	status  sqlrotate.FileStatus
	poll    time.Duration
	deaf    bool // events are switched off

	volume  disk.Volume
	mount   disk.Mount
	version string // of the directory, where ..data points to; empty without one

	owners     bool          // this system has owners and permissions
	uid        int           // ours
	modes      []access      // of the files that hold the login
	dirs       []access      // of the directories that lead there
	dir        string        // where the file is
	canWrite   bool          // this process may make files in dir
	touched    time.Duration // after which a file made there was an event; zero: it wasn't, or wasn't made
	touchErr   error         // why there was none
	wasTouched bool
}

// access is who may do what with a file or directory.
type access struct {
	path     string
	mode     fs.FileMode
	uid, gid int
	closed   bool // to this process, which may not read it
}

// dsnFacts are what is known of a DSN and the environment.
type dsnFacts struct {
	given bool
	err   error

	host, port, database string
	local                bool // it never leaves this machine
	socket               bool // a Unix socket
	sslmode              string
	roots                string // the file of authorities; empty: those of the system
	others               int    // hosts beside that one

	secrets, ignored, used []string // variables of the environment, by what becomes of them
}

// serverFacts are what the server says.
type serverFacts struct {
	asked   bool
	took    time.Duration
	err     error        // of the login
	failure loginFailure // its kind
	code    string       // an SQLSTATE

	queryErr error // why it wasn't told what the role may
	role     roleFacts
	probed   bool  // the application's query was run
	probeErr error // and failed for this
}

// loginFailure is why a login failed.
type loginFailure string

const (
	failedRefused   loginFailure = "refused" // of the credential
	failedExpired   loginFailure = "expired"
	failedDatabase  loginFailure = "no-database"
	failedPrivilege loginFailure = "no-privilege"
	failedNoLogin   loginFailure = "no-login"
	failedFull      loginFailure = "full"
	failedStarting  loginFailure = "starting"
	failedNoTLS     loginFailure = "no-tls"
	failedAuthority loginFailure = "unknown-authority"
	failedHostname  loginFailure = "wrong-hostname"
	failedTLS       loginFailure = "tls"
	failedFile      loginFailure = "certificate-file"
	failedDown      loginFailure = "down"
	failedUnknown   loginFailure = "unknown-host"
	failedEnded     loginFailure = "ended"
	failedSilent    loginFailure = "no-answer"
	failedOther     loginFailure = "other"
)

// roleFacts are what the server says of a session and its role.
type roleFacts struct {
	version, user, database string
	tls                     string // the session's protocol; empty: none
	super, standby          bool
	memberOf                []string
	owns                    int // objects, in this database
	validUntil              time.Time

	roleLimit, databaseLimit   int // of sessions; negative: none
	roleSessions, dataSessions int // without ours
	maxConnections, reserved   int
	sessions                   int // of everybody, without ours
	checkInterval              string
}

// windowFacts are what the library makes of a window.
type windowFacts struct {
	given bool
	err   error
	kind  windowKind
	sqlrotate.WindowStats
	lagDefault, useDefault bool
}

// windowKind is a kind of window.
type windowKind string

const (
	overlapping windowKind = "overlap"
	inPlace     windowKind = "in-place"
	loginTokens windowKind = "login-tokens"
)
