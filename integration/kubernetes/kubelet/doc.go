// Package kubelet tests sqlrotate's file source on a Secret volume that the kubelet's
// own code writes: AtomicWriter of k8s.io/kubernetes. Its module is one of its own, as
// nothing else should need that.
package kubelet
