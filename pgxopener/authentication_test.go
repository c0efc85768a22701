package pgxopener

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestSASLIsSeenHoweverItComes(t *testing.T) {
	const (
		scram     = "R\x00\x00\x00\x17\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"
		md5       = "R\x00\x00\x00\x0c\x00\x00\x00\x05salt"
		negotiate = "v\x00\x00\x00\x0c\x00\x03\x00\x00\x00\x00\x00\x00"
		notice    = "N\x00\x00\x00\x10R\x00\x00\x00\x17\x00\x00\x00\x0aSCR"
		ok        = "R\x00\x00\x00\x08\x00\x00\x00\x00"
	)
	for name, test := range map[string]struct {
		says string
		want bool
	}{
		"SCRAM":              {scram, true},
		"after a version":    {negotiate + scram, true},
		"after two messages": {negotiate + notice + scram, true},
		"in another message": {notice + md5, false},
		"md5":                {md5, false},
		"after a login":      {ok + scram, false},
		"nothing":            {"", false},
		"half of it":         {scram[:8], false},
		"no length":          {"N\x00\x00\x00\x00" + scram, true},
		"a request too short": {
			"R\x00\x00\x00\x04" + scram, true,
		},
		"another protocol": {"HTTP/1.1 400 Bad Request\r\n\r\n", false},
	} {
		for way, reader := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "in halves": iotest.HalfReader, "by bytes": iotest.OneByteReader,
		} {
			seen := 0
			got, err := io.ReadAll(&authentication{Reader: reader(strings.NewReader(test.says)), sasl: func() { seen++ }})
			if err != nil || !bytes.Equal(got, []byte(test.says)) || (seen == 1) != test.want || seen > 1 {
				t.Errorf("%s, %s: seen %d times, read %q: %v", name, way, seen, got, err)
			}
		}
	}
}

func TestSASLprep(t *testing.T) {
	for password, want := range map[string]string{
		"": "", "ASCII '%": "ASCII '%", "I\u00adX": "IX", "\u2168": "IX", "\u00aa": "a", "a\u00a0b": "a b", "a\u200bb": "a b",
		"\u00ad": "\u00ad", "\u0007\ufb01": "\u0007\ufb01", "\u0627\u0031\ufb01": "\u0627\u0031\ufb01", "\xff\ufb01": "\xff\ufb01",
		"\U0001f511\ufb01": "\U0001f511\ufb01",
	} {
		if got := saslprep(password); got != want {
			t.Errorf("%q: %q, want %q", password, got, want)
		}
	}
}
