import re

from django.db import migrations


def name_of(prefix, cluster, taken):
    """A slug that tells what the prefix did, unique among `taken`."""
    words = re.sub(r"[^A-Za-z0-9_]+", "-", " ".join(prefix[:2])).strip("-")[:40] or "access"
    for name in (words, f"{words[:30]}-{re.sub(r'[^A-Za-z0-9_]+', '-', cluster)[:15]}"):
        if name not in taken:
            return name
    return next(name for n in range(2, 10_000) if (name := f"{words}-{n}") not in taken)


def forward(apps, schema_editor):
    """One access per distinct way that profiles have; the commands of the portal's own host need none."""
    Profile, Access = apps.get_model("catalog", "Profile"), apps.get_model("catalog", "Access")
    made = {}
    for profile in Profile.objects.exclude(submit_prefix=[]).order_by("id"):
        prefix = [str(word) for word in profile.submit_prefix]
        key = (profile.cluster, tuple(prefix))
        if key not in made:
            name = name_of(prefix, profile.cluster, {access.name for access in made.values()})
            made[key] = Access.objects.create(name=name, cluster=profile.cluster, submit_prefix=prefix)
        profile.access = made[key]
        profile.save(update_fields=["access"])


def back(apps, schema_editor):
    """Give the prefixes back to the profiles."""
    Profile = apps.get_model("catalog", "Profile")
    for profile in Profile.objects.filter(access__isnull=False).select_related("access"):
        profile.submit_prefix, profile.access = profile.access.submit_prefix, None
        profile.save(update_fields=["submit_prefix", "access"])


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0008_access'),
    ]

    operations = [
        migrations.RunPython(forward, back),
    ]
