"""``/v1/portraits``: send, list, look at and delete the faces that may answer."""

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from ground.errors import AvatarError, RequestError
from server.http.services import OwnerDep, Services, ServicesDep
from server.portraits.limits import check_bytes
from server.portraits.store import Portrait

router = APIRouter(prefix="/v1/portraits")

# What a person can do about each of engine.framing's warnings.
_WARNINGS = {
    "low_resolution": "The face is small in the picture: a closer one will look sharper.",
    "blurred": "The picture is blurred: a sharper one will look better.",
    "dark": "The face is dark: more light from the front will help.",
    "profile": "The face is turned aside: one that looks into the camera moves better.",
    "occluded": "Part of the face seems covered: the mouth or the eyes may move oddly.",
    "low_confidence": "The mouth or the eyes are hard to make out: they may move oddly.",
}


@router.post("", status_code=201)
async def post_portrait(request: Request, owner: OwnerDep, services: ServicesDep) -> dict[str, Any]:
    """A form with one ``file``."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError(
            "unsupported_body", "POST a form with the field file, or PUT the picture itself", status=415, param="file"
        )
    return await _put(await read_form_file(request), owner, services)


@router.put("", status_code=201)
async def put_portrait(request: Request, owner: OwnerDep, services: ServicesDep) -> dict[str, Any]:
    """The picture itself as the body."""
    return await _put(await request.body(), owner, services)


@router.get("")
async def list_portraits(owner: OwnerDep, services: ServicesDep) -> dict[str, Any]:
    return {"portraits": [_shown(portrait, services) for portrait in services.portraits.list(owner)]}


@router.get("/{portrait_id}")
async def get_portrait(portrait_id: str, owner: OwnerDep, services: ServicesDep) -> dict[str, Any]:
    return _shown(services.portraits.get(portrait_id, owner), services)


@router.delete("/{portrait_id}", status_code=204)
async def delete_portrait(portrait_id: str, owner: OwnerDep, services: ServicesDep) -> None:
    services.portraits.delete(portrait_id, owner)


@router.get("/{portrait_id}/preview")
async def get_preview(portrait_id: str, services: ServicesDep, key: str = "") -> Response:
    """The link itself is the right to see it: an <img> cannot send a key."""
    picture = services.portraits.preview(portrait_id, key)
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


async def read_form_file(request: Request) -> bytes:
    """The one file of a form; its name and type are the sender's claims and are not looked at."""
    try:
        form = await request.form(max_files=1, max_fields=4, max_part_size=64 * 1024)
    except HTTPException as error:
        raise RequestError("invalid_form", "the form cannot be read", status=400, param="file") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("missing_file", "the form needs the field file", param="file")
        return await file.read()
    finally:
        await form.close()


async def _put(data: bytes, owner: str, services: Services) -> dict[str, Any]:
    check_bytes(len(data), services.settings)
    try:
        portrait = await services.portraits.put(data, owner)
    except AvatarError:
        services.metrics.portrait(accepted=False)
        raise
    services.metrics.portrait(accepted=True)
    return _shown(portrait, services)


def _shown(portrait: Portrait, services: Services) -> dict[str, Any]:
    return {
        "id": portrait.id,
        "status": "ready",
        "width": portrait.width,
        "height": portrait.height,
        "face": {"confidence": round(portrait.confidence, 3), "crop": portrait.crop},
        "warnings": [{"code": code, "message": _WARNINGS.get(code, code)} for code in portrait.warnings],
        "preview_url": services.settings.root_path + portrait.preview_url,
    }
