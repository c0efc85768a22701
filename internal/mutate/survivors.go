// The list of mutants that no test can notice, and why.

package main

import (
	"fmt"
	"strings"
)

// readSurvivors reads a list of survivors: the key of a mutant on a line, then, indented,
// why it changes nothing. Lines that begin with # are comments.
func readSurvivors(text string) (map[string]string, error) {
	listed := map[string]string{}
	key := ""
	for n, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || strings.HasPrefix(line, "#"):
		case trimmed != line && key == "":
			return nil, fmt.Errorf("line %d: a reason without a mutant", n+1)
		case trimmed != line:
			listed[key] = strings.TrimSpace(listed[key] + " " + trimmed)
		default:
			if _, ok := listed[line]; ok {
				return nil, fmt.Errorf("line %d: listed twice", n+1)
			}
			key = line
			listed[key] = ""
		}
	}
	for key, why := range listed {
		if why == "" {
			return nil, fmt.Errorf("no reason is given for %s", key)
		}
	}
	return listed, nil
}
