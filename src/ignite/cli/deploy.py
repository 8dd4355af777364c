"""`app deploy`: make the server's app equal to what is on disk, and wait until it is served.

Doing it twice changes nothing: configuration is compared field by field and code by the hash and
runtime that the server answers for the draft, so unchanged code gets no new version.
"""

import time
from collections import deque
from dataclasses import dataclass

import grpc

from ignite.cli.appconfig import AppConfig, create_request, update_request
from ignite.cli.failures import Failure, RpcFailure
from ignite.cli.progress import Progress, Step
from ignite.cli.session import Session
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

FIRST_PAUSE_SECS = 0.1
LONGEST_PAUSE_SECS = 1.0
TAIL_LINES = 20
# No log and no such method: the status of the draft tells the end of a compile as well.
_NO_LOG = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE)


# Active already, and not yet known to every gateway.
UNSERVED = (common.DEPLOYMENT_STATE_PROVISIONING, common.DEPLOYMENT_STATE_COMPILING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """An app that is served."""

    app: common.AppMeta
    version: int
    published: bool


class Deployment:
    """One run of `app deploy`."""

    def __init__(self, session: Session, progress: Progress, organization: str, name: str) -> None:
        self._session = session
        self._progress = progress
        self._organization = organization
        self._name = name
        self.published_version = 0  # known to whoever is interrupted

    def run(self, config: AppConfig, code: common.CodeSource | None) -> Deployed:
        """Create or update, save, compile, publish and wait, whatever of it is needed."""
        app = self._settle_app(config)
        if code is None:
            if app.target_version and app.target_version != app.active_version:
                self._wait_until_active(app.target_version)
            return self._result(app.active_version, published=False)
        with self._progress.step("Upload") as step:
            draft = self._save(code)
            step.note(draft.code_hash)
        serving = self._same_code(app, draft)
        if serving:
            self._progress.say(f"Code is unchanged; version {serving} stays.")
            if serving != app.active_version:
                self._wait_until_active(serving)
            return self._result(serving, published=False)
        with self._progress.step("Compile") as step:
            compile_draft(self._session, self._organization, self._name, step)
        with self._progress.step("Publish") as step:
            version = self._publish()
            step.note(f"version {version}")
        self._wait_until_active(version)
        return self._result(version, published=True)

    def _settle_app(self, config: AppConfig) -> common.AppMeta:
        try:
            app = self._get()
        except RpcFailure as failure:
            if failure.code is not grpc.StatusCode.NOT_FOUND:
                raise
            with self._progress.step("Create"):
                request = create_request(self._organization, self._name, config)
                self._session.call(self._session.compute.CreateApp, request)
            return self._get()
        update = update_request(self._organization, self._name, config, app)
        if update is None:
            return app
        with self._progress.step("Configure") as step:
            step.note(", ".join(update.update_mask.paths))
            return self._session.call(self._session.compute.UpdateAppConfig, update).app

    def _get(self) -> common.AppMeta:
        request = pb.GetAppRequest(organization_name=self._organization, app_name=self._name)
        return self._session.call(self._session.compute.GetApp, request).app

    def _save(self, code: common.CodeSource) -> pb.DraftInfo:
        request = pb.SaveDraftRequest(
            organization_name=self._organization, app_name=self._name, code=code
        )
        return self._session.call(self._session.compute.SaveDraft, request).draft

    def _publish(self) -> int:
        request = pb.PublishDraftRequest(organization_name=self._organization, app_name=self._name)
        answer = self._session.call(self._session.compute.PublishDraft, request)
        self.published_version = answer.version
        return answer.version

    def _same_code(self, app: common.AppMeta, draft: pb.DraftInfo) -> int:
        """Return the version that serves, or soon will, what the draft holds; 0 if none does."""
        version = app.target_version or app.active_version
        known = self._version(version) if version else None
        if known is None or known.status == common.VERSION_STATUS_FAILED:
            return 0
        same = (
            draft.code_hash != ""
            and known.code_hash == draft.code_hash
            and known.code_kind == draft.code_kind
            and known.image_ref == draft.image_ref
            and known.runtime == draft.runtime
        )
        return version if same else 0

    def _version(self, version: int) -> pb.AppVersionInfo | None:
        def ask(start: str) -> pb.ListAppVersionsResponse:
            request = pb.ListAppVersionsRequest(
                organization_name=self._organization, app_name=self._name, limit=50, cursor=start
            )
            return self._session.call(self._session.compute.ListAppVersions, request)

        answer = ask("")  # newest first: what is looked for is nearly always on the first page
        while True:
            for info in answer.versions:
                if info.version == version:
                    return info
            if not answer.next_cursor:
                return None
            answer = ask(answer.next_cursor)

    def _wait_until_active(self, version: int) -> None:
        with self._progress.step("Start") as step:
            pause = FIRST_PAUSE_SECS
            while not self._is_active(version, step):
                self._session.remaining()
                time.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE_SECS)

    def _is_active(self, version: int, step: Step) -> bool:
        request = pb.GetAppStateRequest(organization_name=self._organization, app_name=self._name)
        state = self._session.call(self._session.compute.GetAppState, request)
        if state.active_version == version and state.deployment_state not in UNSERVED:
            return True
        info = self._version(version)
        if info is None:
            raise Failure(f"version {version} is gone; was the app deleted?", reason="NotFound")
        if info.status == common.VERSION_STATUS_FAILED:
            text = info.error or state.last_error or "no further word"
            raise Failure(
                f"version {version} failed: {_explained(step, text)}",
                reason=info.error_reason or state.last_error_reason or "Failed",
            )
        if version not in (state.active_version, state.target_version):
            raise Failure(
                f"version {state.target_version} was asked for before version {version} served",
                reason="Superseded",
            )
        if state.last_error:
            step.note(f"({state.last_error_reason or state.last_error})")
        return False

    def _result(self, version: int, *, published: bool) -> Deployed:
        return Deployed(app=self._get(), version=version, published=published)


def _explained(step: Step, text: str) -> str:
    """Print a failure of many lines, such as an app's own trace, and return its last one."""
    lines = [line for line in text.splitlines() if line.strip()] or [text]
    if len(lines) > 1:
        for line in lines:
            step.line(line)
    return lines[-1]


def compile_draft(session: Session, organization: str, name: str, step: Step) -> None:
    """Compile the draft and print its log as it comes; raise with the reason when it fails."""
    request = pb.CompileDraftRequest(organization_name=organization, app_name=name)
    answer = session.call(session.compute.CompileDraft, request)
    if answer.status == common.VERSION_STATUS_COMPILING and answer.deploy_id:
        ended = follow(session, answer.deploy_id, step)
        if ended is not None and ended.status == common.VERSION_STATUS_DRAFT:
            return
    draft = _compiled(session, organization, name)
    if draft.status == common.VERSION_STATUS_FAILED:
        if not step.lines:
            for line in _stored_log(session, organization, name, draft.build_id):
                step.line(line)
        raise Failure(
            f"the compile failed: {draft.error or 'see the log above'}",
            reason=draft.error_reason or "CompileFailed",
        )


def follow(session: Session, deploy_id: str, step: Step) -> pb.StreamCompileLogsResponse | None:
    """Print a compile's log until it ends; None when the log cannot tell the end."""
    request = pb.StreamCompileLogsRequest(deploy_id=deploy_id)
    try:
        for frame in session.stream(session.compute.StreamCompileLogs, request):
            if frame.HasField("line"):
                step.line(frame.line.message)
            if frame.status in (common.VERSION_STATUS_DRAFT, common.VERSION_STATUS_FAILED):
                return frame
    except RpcFailure as failure:
        if failure.code not in _NO_LOG:
            raise
    return None


def _compiled(session: Session, organization: str, name: str) -> pb.DraftInfo:
    """Return the draft once it no longer compiles."""
    request = pb.GetDraftInfoRequest(organization_name=organization, app_name=name)
    pause = FIRST_PAUSE_SECS
    while True:
        draft = session.call(session.compute.GetDraftInfo, request).draft
        if draft.status != common.VERSION_STATUS_COMPILING:
            return draft
        session.remaining()
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECS)


def _stored_log(session: Session, organization: str, name: str, build_id: str) -> list[str]:
    if not build_id:
        return []
    request = pb.GetBuildLogRequest(
        organization_name=organization, app_name=name, build_id=build_id
    )
    try:
        lines = session.call(session.compute.GetBuildLog, request).lines
    except RpcFailure:  # the failure of the compile matters, not that of reading about it
        return []
    return list(deque((line.message for line in lines), maxlen=TAIL_LINES))
