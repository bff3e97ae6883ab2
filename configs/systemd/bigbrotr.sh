#!/bin/sh
# The command as the service sees it: the same settings, data and password. `make install` puts it into place.
set -a
BIGBROTR_PROFILE=lite
BIGBROTR_CONFIG=/etc/bigbrotr/bigbrotr.toml
STATE_DIRECTORY=/var/lib/bigbrotr
if [ -r /etc/credstore/bigbrotr.db_password ]; then DB_PASSWORD_FILE=/etc/credstore/bigbrotr.db_password; fi
if [ -r /etc/bigbrotr/environment ]; then . /etc/bigbrotr/environment; fi
exec /opt/bigbrotr/bin/bigbrotr "$@"
