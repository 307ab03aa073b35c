//go:build tools

// Package cluster pins the version of Prism, Beam's portable runner, which `go build` makes a program of.
package cluster

import _ "github.com/apache/beam/sdks/v2/go/cmd/prism"
