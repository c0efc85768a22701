// Package libpq reads connection strings, password files and service files with libpq
// itself, which it looks for when it is first used. A login has an empty user name or
// password where there is none.
package libpq

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
	char *keyword, *envvar, *compiled, *val, *label, *dispchar;
	int dispsize;
} option;

static option *(*conninfoParse)(const char *, char **);
static void (*conninfoFree)(option *);
static void (*freemem)(void *);
static void *(*connectStart)(const char *);
static char *(*user)(const void *);
static char *(*password)(const void *);
static char *(*errorMessage)(const void *);
static void (*finish)(void *);

static int load(void) {
	void *lib = dlopen("libpq.so.5", RTLD_NOW);
	return lib != NULL &&
		(conninfoParse = dlsym(lib, "PQconninfoParse")) != NULL &&
		(conninfoFree = dlsym(lib, "PQconninfoFree")) != NULL &&
		(freemem = dlsym(lib, "PQfreemem")) != NULL &&
		(connectStart = dlsym(lib, "PQconnectStart")) != NULL &&
		(user = dlsym(lib, "PQuser")) != NULL &&
		(password = dlsym(lib, "PQpass")) != NULL &&
		(errorMessage = dlsym(lib, "PQerrorMessage")) != NULL &&
		(finish = dlsym(lib, "PQfinish")) != NULL;
}

static int parse(const char *s, char **u, char **p) {
	char *message = NULL;
	option *all = conninfoParse(s, &message);
	if (message != NULL)
		freemem(message);
	if (all == NULL)
		return 0;
	for (option *o = all; o->keyword != NULL; o++) {
		if (o->val != NULL && strcmp(o->keyword, "user") == 0)
			*u = strdup(o->val);
		if (o->val != NULL && strcmp(o->keyword, "password") == 0)
			*p = strdup(o->val);
	}
	conninfoFree(all);
	return 1;
}

static void start(const char *s, char **u, char **p, char **message) {
	void *conn = connectStart(s);
	if (conn == NULL)
		return;
	char *found = user(conn);
	if (found != NULL)
		*u = strdup(found);
	if ((found = password(conn)) != NULL)
		*p = strdup(found);
	if ((found = errorMessage(conn)) != NULL)
		*message = strdup(found);
	finish(conn);
}
*/
import "C"

import (
	"errors"
	"strings"
	"sync"
	"unsafe"
)

var load = sync.OnceValue(func() bool { return C.load() != 0 }) //nolint:gochecknoglobals // the library is the process's

// Login is what was found.
type Login struct{ Username, Password string }

var errRefused = errors.New("libpq refuses it")

// Load reports whether there is a libpq.
func Load() error {
	if !load() {
		return errors.New("there is no libpq.so.5: make postgres installs it")
	}
	return nil
}

// Parse reads a connection string or URL.
func Parse(s string) (Login, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return Login{}, errRefused
	}
	text := C.CString(s)
	defer C.free(unsafe.Pointer(text))
	var user, password *C.char
	ok := C.parse(text, &user, &password)
	l := Login{take(user), take(password)}
	if ok == 0 {
		return Login{}, errRefused
	}
	return l, nil
}

// Start returns the login that libpq would send with a connection string, which may
// name a password file, and what it says when it begins to connect.
func Start(s string) (Login, string) {
	text := C.CString(s)
	defer C.free(unsafe.Pointer(text))
	var user, password, message *C.char
	C.start(text, &user, &password, &message)
	return Login{take(user), take(password)}, take(message)
}

func take(s *C.char) string {
	defer C.free(unsafe.Pointer(s))
	return C.GoString(s)
}
