"""Mail and webhooks: what people and operators want to hear without looking.

kinds → what there is to tell · events → what has happened · plan → deliveries, one per event and way · post → out.
Nothing waits for it: a Celery task of its own looks every few seconds. No notice holds a prompt, an answer or a secret.
"""
