"""``/v1/portraits``: upload, list, view and delete portraits."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from engine.portrait.portrait_warnings import WORDING
from ground.errors import AvatarError, RequestError
from server.http.answers import Face, PortraitAnswer, PortraitList, Warned
from server.http.refusals import FORM, KEY, refused
from server.http.services import OwnerDep, Services, ServicesDep
from server.portraits.limits import MEDIA_TYPES, check_bytes
from server.portraits.store import StoredPortrait

router = APIRouter(prefix="/v1/portraits", tags=["portraits"])

_OTHER_FIELDS = 4  # other fields of the form; ignored
BINARY = {"type": "string", "format": "binary"}
FORM_BODY = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {"file": BINARY},
            "additionalProperties": {"type": "string"},
            "maxProperties": 1 + _OTHER_FIELDS,
        },
    }
}  # fmt: skip
_PICTURE_REFUSALS = {
    **KEY,
    409: ("too_many_portraits",),
    413: ("picture_too_large", "body_too_large"),
    415: ("unsupported_picture",),
    422: (
        "no_face",
        "not_human",
        "multiple_faces",
        "face_too_small",
        "face_turned_away",
        "mouth_covered",
        "picture_too_small",
        "picture_too_large",
        "broken_picture",
        "empty_file",
    ),
    429: ("busy",),
    507: ("storage_full",),
}
_UNKNOWN = {**KEY, 404: ("portrait_not_found",)}


@router.post(
    "",
    status_code=201,
    summary="Upload a picture by a form",
    responses=refused(
        {
            **_PICTURE_REFUSALS,
            **FORM,
            415: ("unsupported_body", "unsupported_picture"),
            422: (*_PICTURE_REFUSALS[422], "missing_file"),
        }
    ),
    openapi_extra={"requestBody": {"required": True, "content": FORM_BODY}},
)
async def post_portrait(request: Request, owner: OwnerDep, services: ServicesDep) -> PortraitAnswer:
    """A form with one ``file``. The same picture sent again is the same portrait."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError(
            "unsupported_body", "POST a form with the field file, or PUT the picture itself", status=415, param="file"
        )
    return await _put(await read_form_file(request), owner, services)


@router.put(
    "",
    status_code=201,
    summary="Upload a picture as the body",
    responses=refused(_PICTURE_REFUSALS),
    openapi_extra={"requestBody": {"required": True, "content": {kind: {"schema": BINARY} for kind in MEDIA_TYPES}}},
)
async def put_portrait(request: Request, owner: OwnerDep, services: ServicesDep) -> PortraitAnswer:
    """The picture itself as the body; its type is seen by its content. The same picture is the same portrait."""
    return await _put(await request.body(), owner, services)


@router.get("", summary="Your portraits", responses=refused(KEY))
async def list_portraits(owner: OwnerDep, services: ServicesDep) -> PortraitList:
    """The caller's portraits."""
    return PortraitList(portraits=[_shown(portrait, services) for portrait in services.portraits.list(owner)])


@router.get("/{portrait_id}", summary="One of your portraits", responses=refused(_UNKNOWN))
async def get_portrait(portrait_id: str, owner: OwnerDep, services: ServicesDep) -> PortraitAnswer:
    return _shown(services.portraits.get(portrait_id, owner), services)


@router.delete("/{portrait_id}", status_code=204, summary="Delete a portrait", responses=refused(_UNKNOWN))
async def delete_portrait(portrait_id: str, owner: OwnerDep, services: ServicesDep) -> None:
    """Delete the picture and everything made from it. A call that shows it goes on."""
    await services.portraits.delete(portrait_id, owner)


@router.get(
    "/{portrait_id}/preview",
    summary="The crop as JPEG",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {"schema": BINARY}}, "description": "The crop."},
        **refused({404: ("portrait_not_found",)}),
    },
)
async def get_preview(
    portrait_id: str,
    services: ServicesDep,
    key: Annotated[str, Query(description="The key in the portrait's ``preview_url``.")] = "",
) -> Response:
    """The crop as JPEG. The key in the link is the right to see it, because an <img> cannot send a header."""
    picture = await services.portraits.preview(portrait_id, key)
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


async def read_form_file(request: Request) -> bytes:
    """The one file of a form. Its name and declared type are ignored."""
    try:
        form = await request.form(max_files=1, max_fields=_OTHER_FIELDS, max_part_size=64 * 1024)
    except HTTPException as error:
        raise RequestError("invalid_form", "the form cannot be read", status=400, param="file") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("missing_file", "the form needs the field file", param="file")
        return await file.read()
    finally:
        await form.close()


async def _put(data: bytes, owner: str, services: Services) -> PortraitAnswer:
    check_bytes(len(data), services.settings)
    try:
        portrait = await services.portraits.put(data, owner)
    except AvatarError:
        services.metrics.portrait(accepted=False)
        raise
    services.metrics.portrait(accepted=True)
    return _shown(portrait, services)


def _shown(portrait: StoredPortrait, services: Services) -> PortraitAnswer:
    return PortraitAnswer(
        id=portrait.id,
        width=portrait.width,
        height=portrait.height,
        face=Face(confidence=round(portrait.confidence, 3), crop=portrait.crop, outlines=portrait.outlines),
        warnings=[Warned(code=code, message=WORDING[code]) for code in portrait.warnings],
        preview_url=services.settings.root_path + portrait.preview_url,
    )
