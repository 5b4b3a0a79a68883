"""Around the chapters: parameters, runner, scoreboard, site and the `histobook` command."""
