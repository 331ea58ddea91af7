#!/bin/sh
# git.sh PORT FILES: `git daemon` with one repository; says its head.
set -e
mkdir -p /tmp/repositories/files
cd /tmp/repositories/files
git init --quiet
cp -r "$2"/. .
git add .
git -c user.name=outsock -c user.email=outsock@invalid commit --quiet -m files
echo "head $(git rev-parse HEAD)"
exec "$(git --exec-path)/git-daemon" --reuseaddr --export-all --port="$1" --base-path=/tmp/repositories
