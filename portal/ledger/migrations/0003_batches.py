"""Batches: windows, counters, an outbox of ended lines; files without a path."""

import django.db.models.expressions
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0002_depth_and_storage'),
    ]

    operations = [
        migrations.CreateModel(
            name='BatchEnd',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('batch_id', models.UUIDField()),
                ('request_id', models.UUIDField(unique=True)),
                ('result', models.BinaryField(null=True)),
            ],
        ),
        migrations.RemoveField(
            model_name='file',
            name='path',
        ),
        migrations.AddField(
            model_name='batch',
            name='cancelled',
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='batch',
            name='cancelling_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='batch',
            name='completion_window',
            field=models.CharField(default='24h', max_length=4),
        ),
        migrations.AddField(
            model_name='batch',
            name='errors',
            field=models.JSONField(default=list, help_text='Bad lines of the input: line, code, message, param.'),
        ),
        migrations.AddField(
            model_name='batch',
            name='expired',
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='batch',
            name='finalizing_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='batch',
            name='in_progress_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='batch',
            name='metadata',
            field=models.JSONField(default=dict),
        ),
        migrations.AddField(
            model_name='batch',
            name='token_id',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='file',
            name='erased_at',
            field=models.DateTimeField(help_text='The content is gone; batches still name the file.', null=True),
        ),
        migrations.AlterField(
            model_name='file',
            name='bytes',
            field=models.BigIntegerField(help_text='Committed length; of an output, what may be read of it by now.'),
        ),
        migrations.AlterField(
            model_name='file',
            name='name',
            field=models.CharField(help_text='As its owner calls it; never a path.', max_length=255),
        ),
        migrations.AddIndex(
            model_name='batch',
            index=models.Index(condition=models.Q(('state__in', ['validating', 'in_progress', 'cancelling', 'finalizing'])), fields=['created_at'], name='batch_live'),
        ),
        migrations.AddIndex(
            model_name='batch',
            index=models.Index(fields=['user_id', 'project_id', '-created_at'], name='batch_by_owner'),
        ),
        migrations.AddIndex(
            model_name='file',
            index=models.Index(condition=models.Q(('erased_at__isnull', True)), fields=['user_id', 'project_id', '-created_at'], name='file_by_owner'),
        ),
        migrations.AddConstraint(
            model_name='batch',
            constraint=models.CheckConstraint(condition=models.Q(('total__gte', django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(models.F('completed'), '+', models.F('failed')), '+', models.F('cancelled')), '+', models.F('expired')))), name='batch_counts_each_line_once'),
        ),
        migrations.AddIndex(
            model_name='batchend',
            index=models.Index(fields=['batch_id', 'id'], name='batchend_by_batch'),
        ),
    ]
