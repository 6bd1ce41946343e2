-- The rows of a site of some size, for `bin/bench pages`: parameters are the fields of `_pages_rows.Size`.

-- people
INSERT INTO accounts_project (id, slug, name, weight, is_active, created_at)
  SELECT i, 'project-' || i, 'Project ' || i, 1, true, now() FROM generate_series(1, %(projects)s) i;
INSERT INTO accounts_user (id, username, password, first_name, last_name, email, is_superuser, is_staff, is_active,
    is_operator, is_pending, date_joined)
  SELECT i, CASE WHEN i <= %(users)s THEN 'user-' || i WHEN i = %(users)s + 1 THEN 'operator' ELSE 'administrator' END,
    '!', '', '', '', i = %(users)s + 2, i = %(users)s + 2, true, i = %(users)s + 1, false, now()
  FROM generate_series(1, %(users)s + 2) i;
INSERT INTO accounts_membership (user_id, project_id, role, by_claim)
  SELECT i, 1 + i %% %(projects)s, CASE WHEN i %% 50 = 2 THEN 'manager' ELSE 'member' END, false
  FROM generate_series(1, %(users)s) i;
INSERT INTO accounts_membership (user_id, project_id, role, by_claim) SELECT 1, 1, 'member', false;
INSERT INTO accounts_apitoken (user_id, project_id, name, prefix, digest, scopes, created_at, expires_at, last_used_at)
  SELECT i, 1 + i %% %(projects)s, 'laptop', 'p' || i, md5(i::text), '["inference"]', now(),
    now() + interval '90 days', now()
  FROM generate_series(1, %(users)s) i;
INSERT INTO accounts_quota (level, project_id, requests_per_min)
  SELECT 'project', i, 600 FROM generate_series(1, %(projects)s) i;
INSERT INTO django_admin_log (action_time, object_id, object_repr, action_flag, change_message, content_type_id, user_id)
  SELECT now() - i * interval '1 minute', i::text, 'model', 2, '', (SELECT min(id) FROM django_content_type), %(users)s + 2
  FROM generate_series(1, %(users)s) i;

-- the catalog
INSERT INTO catalog_environment (id, name, engine, python, engine_version, gpu_types) VALUES (1, 'echo', 'echo', '', '', '[]');
INSERT INTO catalog_profile (id, name, enabled, cluster, partition, account, qos, gpu_type, gpus, cpus, mem_mb, walltime_min,
    walltime_least_min, max_pilots, preemptible, cost, charge, link, prologue, door_address, door_ports,
    portal_url_from_nodes, scratch)
  SELECT i, 'profile-' || i, true, 'main', 'gpu', '', '', 'a100', 4, 4, 64000, 240, 30, 100, false, i, 'service', 'direct',
    '', '', '', '', '' FROM generate_series(1, 3) i;
INSERT INTO catalog_pool (name, environment_id, gpus, mem_mb, cap, min_replicas, max_replicas, keep_alive_s, load_limit_s,
    drain_limit_s, load_estimate_s, paused, sleep_level, asleep_mem_mb, args)
  SELECT 'model-' || lpad(i::text, 4, '0'), 1, 1, 8000, 32, 0, 1, 600, 3600, 120, 240, false, 0, 0, '{}'
  FROM generate_series(1, %(models)s) i;
INSERT INTO catalog_pool_profiles (pool_id, profile_id) SELECT p.name, f.id FROM catalog_pool p, catalog_profile f;
INSERT INTO catalog_model (name, kind, pool_id, path, revision, context_tokens, enabled, is_public, description, created_at)
  SELECT name, 'llm', name, '/models/' || name, '', 32768, true, true, 'A model among many.', now() FROM catalog_pool;
INSERT INTO fleet_poolstate (pool_id, failures, reason, load_s, service_s) SELECT name, 0, '', 120, 4 FROM catalog_pool;
INSERT INTO fleet_fit (pool_id, gpu_type, fits, load_s, service_s, note, updated_at)
  SELECT name, 'a100', true, 120, 4, '', now() FROM catalog_pool;
INSERT INTO fleet_profilestate (profile_id, wait_p50_s, wait_p90_s, reason) SELECT id, 60, 600, '' FROM catalog_profile;

-- the fleet and its story
INSERT INTO fleet_cluster (name, paused, orphans, partitions, reservations, ticked_at)
  VALUES ('main', false, '{}', '{}', '[]', now() + interval '1 hour')
  ON CONFLICT (name) DO UPDATE SET ticked_at = excluded.ticked_at;
INSERT INTO fleet_waystate (cluster_id, name, said, tried_at, answered_at, error, jobs)
  VALUES ('main', '', 'Slurm (main)', now(), now() + interval '1 hour', '', '{}')
  ON CONFLICT (cluster_id, name) DO UPDATE SET answered_at = excluded.answered_at;
INSERT INTO fleet_pilot (id, cluster, profile_id, state, job_name, job_id, gpus, mem_mb, walltime_min, planned_at, submitted_at,
    up_at, registered_at, job_started_at, ended_at, end_reason, slurm_state, slurm_reason, slurm_end_at, node, address, gpu_ids,
    agent_version, said_ending)
  SELECT gen_random_uuid(), 'main', 1 + i %% 3, CASE WHEN up THEN 'up' ELSE 'ended' END, 'berth-' || i, 1000 + i, 4, 64000, 240,
    t, t, t, t, t, CASE WHEN NOT up THEN t + interval '3 hours' END, CASE WHEN up THEN '' ELSE 'its time was over' END,
    CASE WHEN up THEN 'RUNNING' ELSE 'COMPLETED' END, 'None', now() + interval '3 hours', 'gpu' || i %% 100, 'http://127.0.0.1:1',
    '["0"]', '1', ''
  FROM (SELECT i, i <= %(pilots)s AS up, now() - i * interval '20 minutes' AS t
        FROM generate_series(1, %(pilots)s + %(ended_pilots)s) i) p;
INSERT INTO fleet_replica (id, pilot_id, pool_id, model, engine, state, gpu_indices, mem_mb, cap, wanted_at, started_at, hot_at,
    ended_at, end_reason, phase, engine_version)
  SELECT gen_random_uuid(), p.id, n, n, 'echo', CASE WHEN p.state = 'up' THEN 'hot' ELSE 'stopped' END, '[0]', 8000, 32,
    p.planned_at, p.planned_at, p.planned_at, p.ended_at, '', '', '1'
  FROM (SELECT *, 'model-' || lpad((1 + job_id %% %(models)s)::text, 4, '0') AS n FROM fleet_pilot) p;
INSERT INTO fleet_gpuclaim (pilot_id, gpu, replica_id) SELECT pilot_id, 0, id FROM fleet_replica WHERE state = 'hot';
INSERT INTO fleet_pilotlog (pilot_id, text, at) SELECT id, repeat('loading weights' || chr(10), 400), now() FROM fleet_pilot;
INSERT INTO fleet_candidate (name, path, project_id, profile_id, created_by_id, created_at, jobs, error, approval)
  SELECT 'new-' || i, '/models/new-' || i, 1 + i %% %(projects)s, 1, 2, now(), 0, '', false FROM generate_series(1, %(users)s) i;
INSERT INTO fleet_badnode (cluster, node, failures, reason, updated_at) VALUES ('main', 'gpu7', 1, 'no GPU', now());
INSERT INTO fleet_decision (at, kind, pool, pilot, replica, reason, inputs)
  SELECT now() - i * interval '10 seconds', CASE i %% 3 WHEN 0 THEN 'launch' WHEN 1 THEN 'place' ELSE 'drain_replica' END,
    'model-' || lpad((1 + i %% %(models)s)::text, 4, '0'), p.id, NULL, '3 requests wait for it.', '{"queued": 3}'
  FROM generate_series(1, %(decisions)s) i JOIN (SELECT id, row_number() OVER () AS n, count(*) OVER () AS of FROM fleet_pilot) p
    ON p.n = 1 + i %% p.of;
INSERT INTO fleet_fleetevent (at, pilot, old, new, detail)
  SELECT at, pilot, 'pending', 'up', '' FROM fleet_decision LIMIT %(decisions)s / 2;
INSERT INTO fleet_command (kind, pool_id, args, state, result, created_by_id, created_at, done_at)
  SELECT 'wake', name, '{}', 'done', '', %(users)s + 1, now(), now() FROM catalog_pool;
INSERT INTO fleet_sample (cluster, at, busy, ready, loading, empty, asked, running, queued_held, queued_async, queued_batch,
    parked, wait_p50_s, wait_p95_s, oldest_s)
  SELECT 'main', date_trunc('minute', now()) - i * interval '1 minute', 40 + i %% 9, 3, i %% 4, 5, i %% 7, 300, i %% 30, 12, 400, 7,
    0.5, 3 + i %% 5, i %% 60 FROM generate_series(0, %(samples)s - 1) i;

-- requests that have ended: of ten, one failed; the user who has many has them all over the time
INSERT INTO ledger_request (id, pool, model, project_id, user_id, token_id, api, stream, lane, priority, order_key, state,
    attempt, crashes, holder, replica, accepted_at, granted_at, first_token_at, ended_at, http_status, error_code,
    prompt_tokens, completion_tokens, slurm_s, load_s)
  SELECT gen_random_uuid(), m, m, 1 + u %% %(projects)s, u, u, '/v1/chat/completions', false, 'held', 0, i,
    CASE WHEN i %% 10 = 3 THEN 'failed' ELSE 'done' END, 1, 0, 'gw-' || i %% 4, r.id, t, t + interval '2 seconds',
    t + interval '3 seconds', t + interval '9 seconds', 200, CASE WHEN i %% 10 = 3 THEN 'engine_error' END, 10, 64, 1, 0
  FROM (SELECT i, 'model-' || lpad((1 + i %% %(models)s)::text, 4, '0') AS m, now() - i * interval '29 days' / %(requests)s AS t,
          CASE WHEN i * %(mine)s::bigint / %(requests)s <> (i - 1) * %(mine)s::bigint / %(requests)s THEN 1
               ELSE 2 + i %% (%(users)s - 1) END AS u
        FROM generate_series(1, %(requests)s) i) rows
    LEFT JOIN (SELECT DISTINCT ON (pool_id) pool_id, id FROM fleet_replica ORDER BY pool_id, id) r ON r.pool_id = m;

-- requests that wait and run, and what lies beside requests
INSERT INTO ledger_request (id, pool, model, project_id, user_id, token_id, api, stream, lane, priority, order_key, state,
    attempt, crashes, accepted_at)
  SELECT gen_random_uuid(), m, m, 1 + u %% %(projects)s, u, u, '/v1/chat/completions', false, 'async', 0, i,
    CASE WHEN i <= %(parked)s THEN 'parked' ELSE 'queued' END, 0, 0, now() - i * interval '10 milliseconds'
  FROM (SELECT i, 'model-' || lpad((1 + i %% %(models)s)::text, 4, '0') AS m, 1 + i %% %(users)s AS u
        FROM generate_series(1, %(live)s) i) rows;
INSERT INTO ledger_request (id, pool, model, project_id, user_id, token_id, api, stream, lane, priority, order_key, state,
    attempt, crashes, holder, replica, accepted_at, granted_at)
  SELECT gen_random_uuid(), pool_id, pool_id, 1, 1, 1, '/v1/chat/completions', false, 'held', 0, 1, 'running', 1, 0, 'gw-1', id,
    now(), now() FROM fleet_replica WHERE state = 'hot';
INSERT INTO ledger_payload (request, body, result)
  SELECT id, '{"messages": []}'::bytea, '{"choices": [{"text": "A wave."}]}'::bytea FROM ledger_request
  WHERE state IN ('queued', 'parked');
INSERT INTO ledger_payload (request, body, result)
  SELECT id, '{"messages": []}'::bytea, '{"choices": [{"text": "A wave."}]}'::bytea FROM ledger_request
  WHERE user_id = 1 AND state = 'done' ORDER BY accepted_at DESC LIMIT 1000;
INSERT INTO ledger_requestevent (request_id, at, kind, attempt, detail)
  SELECT request, now(), 'requeue', 1, '' FROM ledger_payload;
INSERT INTO ledger_holder (id, kind, seen_at) VALUES ('gw-1', 'gateway', now());
INSERT INTO ledger_ticket (request, token_id, digest, expires_at)
  SELECT request, 1, md5(request::text), now() + interval '1 hour' FROM ledger_payload LIMIT 100;
INSERT INTO ledger_idempotencykey (token_id, key, digest, request, expires_at)
  SELECT 1, request::text, md5(request::text), request, now() + interval '1 hour' FROM ledger_payload LIMIT 1000;
INSERT INTO ledger_file (id, project_id, user_id, purpose, name, bytes, created_at, expires_at)
  SELECT gen_random_uuid(), 1, 1 + i %% 2, 'batch', 'in-' || i || '.jsonl', 1000, now() - i * interval '1 minute',
    now() + interval '30 days' FROM generate_series(1, %(batches)s) i;
INSERT INTO ledger_batch (id, project_id, user_id, state, endpoint, completion_window, metadata, input_file_id, created_at,
    expires_at, ended_at, errors, total, completed, failed, cancelled, expired)
  SELECT gen_random_uuid(), project_id, user_id, CASE WHEN n <= 3 THEN 'in_progress' ELSE 'completed' END, '/v1/chat/completions',
    '24h', '{}', id, created_at, created_at + interval '1 day', CASE WHEN n > 3 THEN created_at + interval '1 hour' END, '[]',
    500, CASE WHEN n > 3 THEN 490 ELSE 200 END, 10, 0, 0
  FROM (SELECT *, row_number() OVER (ORDER BY created_at DESC) AS n FROM ledger_file) f;
INSERT INTO ledger_batchend (batch_id, request_id) SELECT b.id, gen_random_uuid() FROM ledger_batch b LIMIT 100;

-- who changed what
INSERT INTO audit_change (at, who, user_id, origin, action, "table", key, name, fields)
  SELECT now() - i * interval '1 minute', 'administrator', %(users)s + 2, 'admin', 'changed', 'catalog.Model', i::text,
    'model-' || lpad((1 + i %% %(models)s)::text, 4, '0'), '{"enabled": [false, true]}' FROM generate_series(1, %(decisions)s) i;
