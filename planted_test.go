// Delays that are planted, to see that tests which may blame the machine don't when it
// is quiet.

package sqlrotate

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sqlrotate/sqlrotate/internal/disk"
	"github.com/sqlrotate/sqlrotate/internal/stall"
)

// plantEnv plants a delay in the way of all that a test binary does, such as
// "close=1s". It is in the way of each dial, login, read of the source or close of a
// socket of a service, and of each read of a file's source but the first.
const plantEnv = "SQLROTATE_TEST_PLANT"

// wait takes its time if a delay is planted in the way of what.
func plantedWait(ctx context.Context, what string) error {
	plant, delay, _ := strings.Cut(os.Getenv(plantEnv), "=")
	if plant != what {
		return nil
	}
	d, err := time.ParseDuration(delay)
	if err != nil {
		panic(plantEnv + ": " + err.Error())
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// plantedSource is a source in whose way delays can be planted.
type plantedSource struct{ *FileSource }

func (s plantedSource) Credential(ctx context.Context) (Credential, error) {
	if err := plantedWait(ctx, "read"); err != nil {
		return Credential{}, err
	}
	return s.FileSource.Credential(ctx)
}

// startFileSource is NewFileSource without a log, and with room for a delay.
func startFileSource(t *testing.T, path string, opt FileOptions) *FileSource {
	t.Helper()
	opt.Logger = slog.New(slog.DiscardHandler)
	s, err := newFileSource(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	plantInReads(s)
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// plantInReads has delays planted in the way of a source's reads.
func plantInReads(s *FileSource) {
	read := s.read
	var again atomic.Bool
	s.read = func() (disk.Snapshot, error) {
		if again.Swap(true) {
			_ = plantedWait(context.Background(), "disk")
		}
		return read()
	}
}

// plants are delays that the tests which measure how late their machine is must not
// take for the machine's. Of some tests one subtest is enough.
func plants() map[string]string {
	return map[string]string{
		"TestSessionWithSetRoleIsClosedAtTheEnd": "close=1s",

		"TestServiceIsWholeWithinASecondOfTheNextFile":                   "login=3s",
		"TestSoakApplicationSurvivesChaos":                               "read=6s",
		"TestFileThatNeverComesIsOneClearError":                          "read=2500ms",
		"TestPreviousCredentialIsNeverUsedAfterItsOverlap":               "read=3s",
		"TestContextEndsALoginWhateverTheServerDoes/silent_in_the_probe": "login=3s",
		"TestCallersThatGiveUpFailNobodyElse":                            "dial=6s",
		"TestWhatComesOutOfQueryContext":                                 "login=4s",
		"TestLoginThatStraddlesARotationCountsAsOld":                     "read=6s",
		"TestWrongPasswordMakesAHandfulOfAttempts":                       "login=40s",
		"TestDeadOnArrivalRetiresNothing":                                "login=40s",
		"TestServerWithoutRoomIsNotARefusal":                             "login=40s",
		"TestRoleInUseIsDropped":                                         "login=40s",
		"TestDatabaseThatIsFull/but_for_one":                             "login=40s",
		"TestServerRestartIsNotARotation":                                "login=40s",
		"TestQueryOverTheHardEndSaysWhy":                                 "login=40s",
		"TestSoakSpareThatTheServerHasEndedIsNotHandedOut":               "read=25s",
		"TestWhatARetirementTakesWithIt":                                 "login=40s",
		"TestQuestionsAreNoUse":                                          "login=40s",
		"TestSoakBusyPoolIsDrainedInTime":                                "login=40s",
		"TestSoakBooksBalance":                                           "login=40s",
		"TestFileSourceSeesEveryWayOfWriting/vault_agent_rename":         "disk=15s",
		"TestSourceOfAHungMountDelaysNoNeighbour":                        "disk=15s",
		"TestSoakFileSourceIsNeverTorn/rename":                           "disk=15s",
		"TestFileSourcesShareAnInotifyInstance":                          "disk=15s",
		"TestFileSourceReadsTwoFilesAnywhere":                            "disk=15s",
		"TestSoakFileSourceSurvivesChaos":                                "disk=15s",
	}
}

// A delay that is planted on a quiet machine is what a test then fails for: it doesn't
// say that the machine stalls and nothing is proven. One test in short, all of them
// for long.
func TestSoakPlantedDelaysAreFound(t *testing.T) {
	needsQuiet(t)
	all := plants()
	if soakFor(t, 0) == 0 {
		const one = "TestSessionWithSetRoleIsClosedAtTheEnd"
		all = map[string]string{one: all[one]}
	}
	m := stall.Watch(t)
	atOnce := make(chan struct{}, 6) // they wait most of the time
	var wg sync.WaitGroup
	for test, plant := range all {
		wg.Go(func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			began := time.Now()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+strings.ReplaceAll(test, "/", "$/^")+"$", "-test.timeout=5m")
			cmd.Env = append(os.Environ(), plantEnv+"="+plant, "SQLROTATE_SOAK=")
			out, err := cmd.CombinedOutput()
			said := string(out)
			switch {
			case err == nil:
				t.Errorf("%s passes with %s", test, plant)
			case strings.Contains(said, "nothing is proven"):
				m.Blame(began, time.Now(), 100*time.Millisecond, "%s excuses %s:\n%s", test, plant, said)
			case !strings.Contains(said, "--- FAIL: Test") || strings.Contains(said, "DATA RACE") || strings.Contains(said, "panic: "):
				t.Errorf("%s with %s: %v\n%s", test, plant, err, said)
			default:
				t.Logf("%s fails with %s after %v", test, plant, time.Since(began).Round(time.Second))
			}
		})
	}
	wg.Wait()
}

// No test that measures how late its machine is lacks a planted delay.
func TestPlantsAreComplete(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	planted := map[string]bool{"TestSoakPlantedDelaysAreFound": true} // it measures for itself
	for test := range plants() {
		name, _, _ := strings.Cut(test, "/")
		planted[name] = true
	}
	meters := regexp.MustCompile(`\b(newService|openBank|newWitness|stall\.Watch|mustNeverBeTorn)\(`)
	measures := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Split(string(content), "\nfunc ")[1:] {
			if name, body, _ := strings.Cut(f, "("); strings.HasPrefix(name, "Test") && meters.MatchString(body) {
				measures++
				if !planted[name] {
					t.Errorf("no delay is planted for %s", name)
				}
			}
		}
	}
	if measures != len(planted) {
		t.Errorf("%d tests measure, and for %d a delay is planted", measures, len(planted))
	}
}
