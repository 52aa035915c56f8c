"""Who hears of alerts: the log, webhooks, e-mail, Alertmanager, Python callables; each with a worker of its own."""
