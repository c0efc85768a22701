// Where a password is kept, and what a connection says.

package sqlrotatetest

import (
	"context"
	"database/sql/driver"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"github.com/sqlrotate/sqlrotate"
)

// spellings are the ways in which a password may stand in a text.
func spellings(password string) []string {
	quoted := strconv.Quote(password)
	return []string{
		password, quoted[1 : len(quoted)-1], url.QueryEscape(password), url.PathEscape(password),
		strings.ReplaceAll(password, "'", "''"), strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password),
		hex.EncodeToString([]byte(password)), base64.StdEncoding.EncodeToString([]byte(password)),
	}
}

// mentions reports whether text holds the password of cred.
func mentions(text string, cred sqlrotate.Credential) bool {
	password := cred.Password.Reveal()
	if password == "" {
		return false
	}
	for _, s := range spellings(password) {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// textOf is what err says, unless that is a secret.
func textOf(err error, cred sqlrotate.Credential) string {
	if mentions(err.Error(), cred) {
		return fmt.Sprintf("an error of type %T whose text holds the password", err)
	}
	return err.Error()
}

// holds returns where in v the password of cred is, or "": in its text, or in a field
// that reflection reaches.
func holds(v any, cred sqlrotate.Credential) string {
	if err, ok := v.(error); ok && mentions(err.Error(), cred) {
		return "its text"
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if mentions(fmt.Sprintf(verb, v), cred) {
			return "what " + verb + " prints"
		}
	}
	r := reach{cred: cred, seen: map[visit]bool{}}
	return r.find(reflect.ValueOf(v), fmt.Sprintf("%T", v))
}

// reach searches all that reflection reaches, unexported fields included.
type reach struct {
	cred sqlrotate.Credential
	seen map[visit]bool
}

type visit struct {
	at uintptr
	of reflect.Type
}

// find returns the path to the password, or "".
func (r *reach) find(v reflect.Value, path string) string {
	switch v.Kind() {
	case reflect.String:
		if mentions(v.String(), r.cred) {
			return path
		}
	case reflect.Interface:
		if !v.IsNil() {
			return r.find(v.Elem(), path)
		}
	case reflect.Pointer:
		if !v.IsNil() && r.first(v) {
			return r.find(v.Elem(), path)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if at := r.find(v.Field(i), path+"."+v.Type().Field(i).Name); at != "" {
				return at
			}
		}
	case reflect.Map:
		return r.findInMap(v, path)
	case reflect.Slice, reflect.Array:
		return r.findInList(v, path)
	}
	return ""
}

// findInMap searches the keys and the values of a map.
func (r *reach) findInMap(v reflect.Value, path string) string {
	if v.IsNil() || !r.first(v) {
		return ""
	}
	for it := v.MapRange(); it.Next(); {
		if at := r.find(it.Key(), path+"[key]"); at != "" {
			return at
		}
		if at := r.find(it.Value(), path+"[...]"); at != "" {
			return at
		}
	}
	return ""
}

// findInList searches a slice or an array.
func (r *reach) findInList(v reflect.Value, path string) string {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		b := make([]byte, v.Len())
		for i := range b {
			b[i] = byte(v.Index(i).Uint()) //nolint:gosec // it is one
		}
		if mentions(string(b), r.cred) {
			return path
		}
		return ""
	}
	for i := range v.Len() {
		if at := r.find(v.Index(i), path+"[...]"); at != "" {
			return at
		}
	}
	return ""
}

// first reports whether what v points to has not been searched yet.
func (r *reach) first(v reflect.Value) bool {
	k := visit{v.Pointer(), v.Type()}
	if r.seen[k] {
		return false
	}
	r.seen[k] = true
	return true
}

// liveness asks a connection whether it is good, in the order in which database/sql would.
func liveness(conn driver.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if c, ok := conn.(driver.SessionResetter); ok {
		if err := c.ResetSession(ctx); err != nil {
			return err
		}
	}
	if c, ok := conn.(driver.Validator); ok && !c.IsValid() {
		return driver.ErrBadConn
	}
	if c, ok := conn.(driver.Pinger); ok {
		return c.Ping(ctx)
	}
	return nil
}

// queryString runs a query for one text.
func queryString(conn driver.Conn, query string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	q, ok := conn.(driver.QueryerContext)
	if !ok {
		return "", errors.New("the connection is no driver.QueryerContext")
	}
	rows, err := q.QueryContext(ctx, query, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = rows.Close() }()
	row := make([]driver.Value, len(rows.Columns()))
	first := ""
	for n := 0; ; n++ {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return first, nil
		case err != nil:
			return "", err
		}
		if n == 0 && len(row) > 0 {
			first = text(row[0])
		}
	}
}

func text(v driver.Value) string {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return fmt.Sprint(v)
}
