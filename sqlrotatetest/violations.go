// What a conformance test has found.

package sqlrotatetest

import (
	"errors"
	"fmt"
	"sync"
)

// violations are what a check has found, each text once. They are safe for concurrent use.
type violations struct {
	mu  sync.Mutex
	all []error
}

// violated records a violation.
func (v *violations) violated(obligation, format string, args ...any) {
	err := fmt.Errorf("sqlrotatetest: "+obligation+": "+format, args...)
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, known := range v.all {
		if known.Error() == err.Error() {
			return
		}
	}
	v.all = append(v.all, err)
}

// joined returns all of them, and what the harness failed with, if it did.
func (v *violations) joined(harness error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if harness != nil {
		return errors.Join(append(v.all, fmt.Errorf("sqlrotatetest: %w", harness))...)
	}
	return errors.Join(v.all...)
}
