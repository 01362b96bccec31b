"""What stands outside of the handler lives as long as the instance: a later call finds it as the one before left it."""

calls = 0


def handler(event, context):
    global calls
    calls += 1
    name = event["queryStringParameters"].get("name", "world")
    context.logger.info("greeting", name=name)
    return {"greeting": f"Hello {name}, from Python", "function": context.function_name, "calls": calls}
