'use strict'
// A runtime for handler code (../README.md). As PID 1 of a container it is a process that looks after another one.
require(process.pid === 1 ? './lib/init' : './lib/runtime')
