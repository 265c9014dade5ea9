-- Sends each series that has become stable to the node. In orthanc.json:
--   "LuaScripts": ["/etc/orthanc/dicom-node.lua"],
--   "DicomModalities": {"dicom-node": ["DICOMNODE", "127.0.0.1", 11112]}
-- The node's results come back as SEG and SR: they are not sent to it again, so nothing goes round in circles.

local NODE = 'dicom-node'

function OnStableSeries(seriesId, tags, metadata)
   if tags['Modality'] == 'SEG' or tags['Modality'] == 'SR' then
      return
   end
   -- As a job: Orthanc tries again by itself, and receives on meanwhile.
   RestApiPost('/modalities/' .. NODE .. '/store',
               DumpJson({Resources = {seriesId}, Synchronous = false}, true))
end
