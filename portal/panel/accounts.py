"""Admin pages for people, projects, tokens and quotas."""

from __future__ import annotations

from typing import Any

from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from portal.accounts.issue import revoke
from portal.accounts.models import ApiToken, ClaimRule, Membership, Project, Quota, User
from portal.accounts.sso import issuer_of
from portal.panel.editable import EditableAdmin
from portal.panel.readonly import ReadOnlyAdmin, link_list
from portal.services import targets

MOST_INLINE = 10


class MembershipInline(admin.StackedInline[Membership, User | Project]):
    model = Membership
    extra = 0
    autocomplete_fields = ["user", "project"]


@admin.register(User)
class PeopleAdmin(EditableAdmin[User], UserAdmin[User]):
    list_display = [
        "username",
        "email",
        "is_active",
        "is_pending",
        "is_operator",
        "is_superuser",
        "belongs_to",
        "last_login",
    ]
    list_filter = ["is_pending", "is_active", "is_operator", "is_superuser", "is_staff", "membership__role"]
    search_fields = ["username", "first_name", "last_name", "email"]
    # Rights come from these and from memberships; Django's groups and permissions would be a second system.
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Berth", {"fields": ("is_active", "is_operator", "is_staff", "is_superuser")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ["last_login", "date_joined"]
    inlines = [MembershipInline]
    actions = ["let_in"]

    def has_let_in_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_user")

    @admin.action(description="Approve the selected pending accounts", permissions=["let_in"])
    def let_in(self, request: HttpRequest, people: QuerySet[User]) -> None:
        waiting = list(people.filter(is_pending=True))
        for user in waiting:
            user.is_active = True
            user.save()
        messages.success(
            request, f"{len(waiting)} accounts approved. What they may use depends on their projects."
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("membership_set__project")

    @admin.display(description="projects")
    def belongs_to(self, user: User) -> str:
        return ", ".join(f"{one.project} ({one.role})" if one.role != "member" else str(one.project)
                         for one in user.membership_set.all())  # fmt: skip


@admin.register(Project)
class ProjectAdmin(EditableAdmin[Project]):
    list_display = ["slug", "name", "weight", "max_gpus", "is_active", "members", "created_at"]
    list_filter = ["is_active"]
    search_fields = ["slug", "name"]
    readonly_fields = ["created_at", "members"]
    fieldsets = [
        (None, {"fields": ["slug", "name", "is_active", "created_at", "members"]}),
        ("Fair share", {"fields": ["weight", "max_gpus"]}),
        ("Models", {"fields": ["model_roots"]}),
    ]

    def get_inlines(self, request: HttpRequest, obj: Project | None) -> list[Any]:
        """Return the members as part of the form while they are few; more have their own list, which `members` leads
        to."""
        many = obj is not None and obj.membership_set.count() > MOST_INLINE
        return [] if many else [MembershipInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        return super().get_queryset(request).annotate(number=Count("membership"))

    @admin.display(description="members", ordering="number")
    def members(self, project: Any) -> SafeString | str:
        if project.pk is None:
            return "–"
        return link_list("accounts_membership", f"project__id={project.pk}", f"{project.number} members")


@admin.register(Membership)
class MembershipAdmin(EditableAdmin[Membership]):
    list_display = ["user", "project", "role", "priority"]
    list_filter = ["role", "priority"]
    search_fields = ["user__username", "project__slug"]
    autocomplete_fields = ["user", "project"]
    list_select_related = ["user", "project"]


@admin.register(ClaimRule)
class ClaimRuleAdmin(EditableAdmin[ClaimRule]):
    """The page of rules: which values of an identity provider's claim give which project, from each person's next
    log-in on."""

    list_display = ["value", "project", "role", "issuer"]
    list_filter = ["role"]
    search_fields = ["value", "project__slug"]
    autocomplete_fields = ["project"]
    list_select_related = ["project"]


class IdentityAdmin(ReadOnlyAdmin[SocialAccount]):
    """The page of identities: who logs in as whom. An identity belongs to its account for good."""

    list_display = ["user", "issuer", "uid", "last_login", "date_joined"]
    search_fields = ["user__username", "uid"]
    list_select_related = ["user"]
    fields = ["user", "issuer", "uid", "last_login", "date_joined"]

    @admin.display(description="issuer")
    def issuer(self, identity: SocialAccount) -> str:
        return issuer_of(identity.provider)


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin[ApiToken]):
    """The page of tokens. They may be revoked, never edited or deleted: the ledger refers to them."""

    list_display = ["prefix", "name", "user", "project", "scopes", "standing", "expires_at", "last_used_at"]
    list_filter = ["expires_at", ("revoked_at", admin.EmptyFieldListFilter)]
    search_fields = ["prefix", "name", "user__username", "project__slug"]
    list_select_related = ["user", "project"]
    fields = [
        "prefix", "name", "user", "project", "scopes", "standing", "created_at", "expires_at", "revoked_at",
        "last_used_at",
    ]  # fmt: skip
    actions = ["revoke_tokens"]

    @admin.display(description="status")
    def standing(self, token: ApiToken) -> str:
        if token.revoked_at is not None:
            return "revoked"
        return "active" if token.expires_at > timezone.now() else "expired"

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_apitoken")

    @admin.action(description="Revoke the selected tokens", permissions=["revoke"])
    def revoke_tokens(self, request: HttpRequest, tokens: QuerySet[ApiToken]) -> None:
        ended = sum(revoke(token) for token in tokens)
        messages.success(request, f"{ended} tokens revoked.")


class QuotaForm(forms.ModelForm[Quota]):
    def clean_model(self) -> str | None:
        name = self.cleaned_data["model"]
        if name:
            targets.model(name)
        return name or None

    def clean(self) -> dict[str, Any]:
        """Say in words what the database holds by a constraint."""
        said = super().clean() or {}
        named = [name for name in Quota.Level.values if said.get(name)]
        if "level" in said and not self.errors and named != [said["level"]]:
            raise ValidationError(f"A quota of a {said['level']} names one {said['level']} and nothing else.")
        return said


@admin.register(Quota)
class QuotaAdmin(EditableAdmin[Quota]):
    form = QuotaForm
    list_display = [
        "level", "subject", "requests_per_min", "tokens_per_min", "concurrent", "queued",
    ]  # fmt: skip
    list_display_links = ["level", "subject"]
    list_filter = ["level"]
    search_fields = ["token__prefix", "token__name", "user__username", "project__slug", "model"]
    autocomplete_fields = ["token", "user", "project"]
    list_select_related = ["token", "user", "project"]
    fieldsets = [
        ("Applies to", {"fields": ["level", "project", "user", "token", "model"]}),
        (
            "Limits",
            {
                "fields": ["requests_per_min", "tokens_per_min", "concurrent", "queued"],
                "description": "Empty: no limit at this level. All levels apply: a request needs room in each. A "
                "subject without a quota has the site's limits (BERTH_LIMITS).",
            },
        ),
    ]

    @admin.display(description="applies to")
    def subject(self, quota: Quota) -> str:
        return str(quota.token or quota.user or quota.project or quota.model)


# Of allauth's tables only identities are used: providers come from the environment, tokens are not kept.
for unused in (EmailAddress, SocialAccount, SocialApp, SocialToken):
    admin.site.unregister(unused)
admin.site.register(SocialAccount, IdentityAdmin)
# Rights come from is_operator, memberships and scopes; a second system of groups would only confuse.
admin.site.unregister(Group)
