import json


# A call by HTTP: event has method, path, query, headers and body; context the request's id, the time left and a logger.
def handler(event, context):
    try:
        name = json.loads(event.get("body") or "{}").get("name", "world")
    except (ValueError, AttributeError):
        return {"statusCode": 400, "body": "the body is no JSON object\n"}
    context.logger.info("greets", name=name)
    return {"message": f"Hello, {name}"}
