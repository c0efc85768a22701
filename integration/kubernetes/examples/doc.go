// Package examples tests what is in examples/kubernetes: that a server of Kubernetes takes
// it, that its custom resources are as the operators' own definitions have them, that what
// its comments promise is so, and that the application runs as it says, beside the agents
// that are in it.
package examples
