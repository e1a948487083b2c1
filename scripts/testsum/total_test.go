package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const pass = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
`

const skip = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: no kernel: fetch one\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
`

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		events string
		want   map[test]verdict
	}{
		"pass":         {pass, map[test]verdict{{"p", "TestA"}: {passed, ""}}},
		"skip":         {skip, map[test]verdict{{"p", "TestA"}: {skipped, "no kernel: fetch one"}}},
		"no test file": {`{"Action":"skip","Package":"p"}`, map[test]verdict{}},
		"not JSON":     {"go: downloading\n" + pass, map[test]verdict{{"p", "TestA"}: {passed, ""}}},
		"not ended": {`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`, map[test]verdict{{"p", "TestA"}: {failed, "it did not end"}}},
		"cut off": {`{"Action":"run","Package":"p","Test":"TestA"}`, map[test]verdict{{"p", "TestA"}: {failed, "it did not end"}}},
		"no build": {`{"Action":"build-fail","ImportPath":"p [p.test]"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`, map[test]verdict{{"p", ""}: {failed, "it does not build"}}},
		"outside a test": {`{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"panic: no\n"}
{"Action":"fail","Package":"p"}`, map[test]verdict{{"p", "TestA"}: {passed, ""}, {"p", ""}: {failed, "panic: no"}}},
		"subtests": {`{"Action":"skip","Package":"p","Test":"TestA/x/1"}
{"Action":"pass","Package":"p","Test":"TestA/x"}
{"Action":"pass","Package":"p","Test":"TestA"}`, map[test]verdict{{"p", "TestA/x/1"}: {skipped, ""}}},
		"subtest failed": {`{"Action":"fail","Package":"p","Test":"TestA/x"}
{"Action":"pass","Package":"p","Test":"TestA/y"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`, map[test]verdict{{"p", "TestA/x"}: {failed, ""}, {"p", "TestA/y"}: {passed, ""}}},
		"only the parent failed": {`{"Action":"pass","Package":"p","Test":"TestA/x"}
{"Action":"fail","Package":"p","Test":"TestA"}`, map[test]verdict{{"p", "TestA/x"}: {passed, ""}, {"p", "TestA"}: {failed, ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := judge(strings.NewReader(c.events))
			if err != nil || !maps.Equal(got, c.want) {
				t.Errorf("%v, %v, want %v", got, err, c.want)
			}
		})
	}
}

func TestTotal(t *testing.T) {
	fail := strings.ReplaceAll(pass, `"pass"`, `"fail"`)
	for name, c := range map[string]struct {
		rungs  []string
		strict bool
		ok     bool
		last   string
	}{
		"pass":                        {[]string{pass}, true, true, "1 passed, 0 failed, 0 skipped"},
		"fail":                        {[]string{fail}, false, false, "0 passed, 1 failed, 0 skipped"},
		"skip":                        {[]string{skip, strings.ReplaceAll(pass, "TestA", "TestB")}, false, false, "1 passed, 0 failed, 1 skipped"},
		"skip beside a pass":          {[]string{skip + strings.ReplaceAll(pass, "TestA", "TestB")}, false, true, "1 passed, 0 failed, 1 skipped"},
		"strict":                      {[]string{skip + strings.ReplaceAll(pass, "TestA", "TestB")}, true, false, "1 passed, 0 failed, 1 skipped"},
		"skipped here, passed there":  {[]string{skip + strings.ReplaceAll(pass, "TestA", "TestB"), pass}, true, true, "2 passed, 0 failed, 0 skipped"},
		"passed here, failed there":   {[]string{fail, pass}, false, false, "0 passed, 1 failed, 0 skipped"},
		"a rung that ran no test":     {[]string{pass, ""}, false, false, "1 passed, 0 failed, 0 skipped"},
		"no test ran in the only one": {[]string{""}, false, false, "0 passed, 0 failed, 0 skipped"},
	} {
		t.Run(name, func(t *testing.T) {
			var files []string
			for i, events := range c.rungs {
				file := filepath.Join(t.TempDir(), string(rune('a'+i))+".json")
				if err := os.WriteFile(file, []byte(events), 0o600); err != nil {
					t.Fatal(err)
				}
				files = append(files, file)
			}
			var out strings.Builder
			err := total(files, c.strict, &out)
			if (err == nil) != c.ok || !strings.HasSuffix("\n"+out.String(), "\n"+c.last+"\n") {
				t.Errorf("%v\n%s", err, &out)
			}
		})
	}
}

func TestShow(t *testing.T) {
	var out strings.Builder
	err := show(strings.NewReader(skip+`{"Action":"output","Package":"q","Test":"TestB","Output":"    b_test.go:1: want 2\n"}
{"Action":"fail","Package":"q","Test":"TestB"}
{"Action":"output","Package":"q","Test":"TestC","Output":"panic: C\n"}
{"Action":"fail","Package":"q","Elapsed":1.5}
`), &out)
	const want = `pass p: 1 tests, 0.0 s
    b_test.go:1: want 2
panic: C
fail q: 1 tests, 1.5 s
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s", err, &out)
	}
}
