#!/bin/sh
set -a
DB_USER=app-printf
DB_PASSWORD=fake-Printf\ it\'s\ \"q\"\ \$27\ \\
