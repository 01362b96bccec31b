//go:build tools

// Package tools holds h2spec and what it needs at fixed versions.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
