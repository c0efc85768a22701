// Package difftest holds what internal/credfile reads against those who read and write
// the same formats: libpq, pgconn, lib/pq, the libraries for dotenv and YAML, and
// shells. What is read is what was written, and what all of them read, or it is a
// refusal. It is a module of its own, as nothing else should need them.
package difftest
