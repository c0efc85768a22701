//go:build unix

package sqlrotate_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/sqlrotate/sqlrotate"
)

// A program prints a token that is good for 15 min. Here it is echo; see docs/tokens.md
// for those of clouds.
func ExampleNewCommandSource() {
	src, err := sqlrotate.NewCommandSource(
		[]string{"echo", "the-token"},
		sqlrotate.CommandOptions{Username: "app", Lifetime: 15 * time.Minute},
	)
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	cred, err := src.Credential(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(src, cred.Username, cred.Password, time.Until(cred.NotAfter).Round(time.Minute))
	// Output: command echo app REDACTED 15m0s
}
