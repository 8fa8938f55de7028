-- Health of an Endpoint for Argo CD: what kstatus says, plus Suspended for one that is scaled to zero on purpose.
-- Models that are not ready do not make it unhealthy (they have a health of their own), but the message names them.
local health = {status = "Progressing", message = "the operator has not looked at this generation yet"}
if obj.metadata.deletionTimestamp ~= nil then
  health.message = "it is being deleted"
  return health
end
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health
end
local found = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  found[condition.type] = condition
end
local function is(name, value)
  return found[name] ~= nil and found[name].status == value
end
local ready = found["Ready"] or {}
health.message = (ready.reason or "Unknown") .. ": " .. (ready.message or "there is no condition Ready")
if is("Stalled", "True") then
  health.status = "Degraded"
  health.message = found["Stalled"].reason .. ": " .. found["Stalled"].message
elseif is("Ready", "False") and ready.reason == "ScaledToZero" then
  health.status = "Suspended"
elseif is("Ready", "True") and not is("Reconciling", "True") then
  health.status = "Healthy"
  if is("ModelsReady", "False") then
    health.message = health.message .. "; " .. found["ModelsReady"].message
  end
end
return health
