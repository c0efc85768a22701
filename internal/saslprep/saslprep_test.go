package saslprep_test

import (
	"testing"

	"github.com/sqlrotate/sqlrotate/internal/saslprep"
)

// All that x/text has tables for is tried by the tests of pgxopener.
func TestMayChange(t *testing.T) {
	for name, test := range map[string]struct {
		password string
		want     bool
	}{
		"nothing":                     {"", false},
		"ASCII":                       {`pa'ss "wo\rd" %41+&=/?#@:`, false},
		"controls":                    {"a\tb\x01\x7f", false},
		"composed accent":             {"p\u00e4ss", false},
		"combining accent":            {"pa\u0308ss", true},
		"a mark that composes never":  {"p\u0e01\u0e48ss", false},
		"two marks in a row":          {"p\u0e01\u0e48\u0e38ss", true},
		"ligature":                    {"\ufb01sh", true},
		"Roman numeral":               {"\u2168", true},
		"superscript":                 {"x\u00b2", true},
		"no-break space":              {"no\u00a0break", true},
		"zero-width space":            {"zero\u200bwidth", true},
		"soft hyphen":                 {"soft\u00adhyphen", true},
		"Cyrillic":                    {"\u043f\u0430\u0440\u043e\u043b\u044c\u0439", false},
		"Cyrillic, combining":         {"\u043f\u0438\u0306", true},
		"Chinese":                     {"\u5bc6\u7801", false},
		"Hangul syllables":            {"\ube44\ubc00", false},
		"Hangul letters":              {"\u1107\u1175", true},
		"emoji":                       {"\U0001f511key", false},
		"emoji and a ligature":        {"\U0001f511\ufb01", false},
		"a heart as an emoji":         {"\u2764\ufe0f", true},
		"controls and a ligature":     {"a\tb\ufb01", false},
		"private use and a ligature":  {"\ue000\ufb01", false},
		"no UTF-8":                    {"p\xe4ss", false},
		"no UTF-8 and a ligature":     {"\xff\ufb01", false},
		"the replacement character":   {"p\ufffdss\ufb01", false},
		"half width":                  {"\uff76", true},
		"the last character":          {"\U0010ffff\ufb01", false},
		"a composed character beside": {"\u00e9\ufb01", true},
	} {
		if got := saslprep.MayChange(test.password); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
